"""Replies under both graders: verdicts, metrics beside published scores, and a table to filter in a notebook."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..engine.requests import LENGTH_LIMIT, OK, TRUNCATED
from ..graders.grading import equivalence, grade_many
from ..graders.score import KINDS, THOUGHT_END
from ..runs.grading import config_beside, grading_item, stored_replies
from ..scores.known_scores import is_far, known_scores
from ..scores.metrics import LIMIT_STATUSES, metric_rows
from ..scores.statistics import interval

TAIL_CHARACTERS = 160


def case_replies(folder: Path, n_each: int) -> list[dict[str, Any]]:
    """Replies of the graders' case table, `n_each` evenly spread ones per kind, as records without token counts."""
    replies: list[dict[str, Any]] = []
    for kind in KINDS:
        cases = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
        for case in cases[:: max(1, len(cases) // n_each)][:n_each]:
            record = {"problem_id": f"{kind}-{len(replies):03d}", "sample_id": 0, "kind": kind, "gold": case["gold"]}
            reply = {"text": case["response"], "status": _status(case), "options": case.get("options")}
            replies.append(record | reply)
    return replies


def _status(case: dict[str, Any]) -> str:
    if case.get("finish_reason") != "length":
        return OK
    return LENGTH_LIMIT if THOUGHT_END in case["response"] else TRUNCATED


def run_replies(path: Path, kind: str) -> list[dict[str, Any]]:
    """Records of a run, a records.jsonl or the folder that holds it, with their answer kind."""
    found = stored_replies(_records_file(path))
    return [
        {**row, "kind": kind or found.kind or row.get("kind"), "options": found.options.get(row["problem_id"])}
        for row in found.rows
    ]


def _records_file(path: Path) -> Path:
    return path / "records.jsonl" if path.is_dir() else path


def compare_graders(replies: Sequence[dict[str, Any]], workers: int = 1) -> pd.DataFrame:
    """One row per reply: both verdicts, the strict grader's extraction, rule and status; disagreements first."""
    items = [grading_item(reply, reply["kind"], reply.get("options")) for reply in replies]
    strict = grade_many(items, workers)
    compat = grade_many(items, workers, grader="dynts_compat")
    rows = [
        {
            "problem_id": reply["problem_id"],
            "sample_id": reply["sample_id"],
            "kind": reply["kind"],
            "strict": own.correct,
            "compat": other.correct,
            "status": own.status,
            "hit the limit": reply["status"] in LIMIT_STATUSES,
            "extracted": own.answer,
            "gold": reply["gold"],
            "rule": own.rule,
            "compat extracted": other.answer,
            "compat rule": other.rule,
            "reply ends with": reply["text"][-TAIL_CHARACTERS:],
        }
        for reply, own, other in zip(replies, strict, compat, strict=True)
    ]
    frame = pd.DataFrame(rows)
    order = (frame.strict == frame.compat).sort_values(kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def metric_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Every metric per kind under the strict grader, in percent, with n, k and intervals; votes are over answers.

    Args:
        frame: what `compare_graders` returned.
    """
    rows = []
    for kind, part in frame.groupby("kind"):
        # a frame turns None into NaN, which would vote
        answers = part.extracted.astype(object).where(part.extracted.notna(), None)
        records = part.assign(correct=part.strict, answer=answers).to_dict("records")
        answered = 100 * float(part.extracted.notna().mean())
        truncated = 100 * float(part["hit the limit"].mean())
        for row in metric_rows(records, equivalence(str(kind))):
            percent = {name: 100 * row[name] for name in ("score", "lo", "hi")}
            rows.append({"kind": kind, **row, **percent, "answered %": answered, "truncated %": truncated})
    return pd.DataFrame(rows)


def against_published(path: Path | None, frame: pd.DataFrame) -> pd.DataFrame:
    """Published full-cache scores; for a run on a model that has some, the run's strict score and a flag beside them.

    Args:
        path: records.jsonl of the run or its folder, with the manifest beside it; None shows the published scores only.
        frame: what `compare_graders` returned for this run.
    """
    config = {} if path is None else config_beside(_records_file(path))
    known = known_scores(config.get("model"), config.get("benchmark"))
    table = pd.DataFrame([vars(entry) for entry in known])
    if not known or config.get("method") != "full":
        return table
    score = interval(frame.groupby("problem_id").strict.mean().astype(float))
    run = {"run": 100 * score.estimate, "lo": 100 * score.lo, "hi": 100 * score.hi}
    size = {"n": score.n_problems, "k": len(frame) / score.n_problems}
    distance = 100 * score.estimate - table.score
    return table.assign(**run, **size, distance=distance, flagged=[is_far(entry, score) for entry in known])


def filterable(frame: pd.DataFrame, height_px: int = 420) -> str:
    """HTML of a frame with one filter box per column; model text is escaped, and nothing is loaded from elsewhere."""
    head = "".join(
        f"<th style='text-align:left'>{html.escape(str(name))}<br><input size='9' oninput='kvFilter(this)'></th>"
        for name in frame.columns
    )
    # pandas' own table would write line breaks as text and round numbers
    body = "".join(
        "<tr>" + "".join(f"<td style='text-align:left'>{html.escape(str(value))}</td>" for value in row) + "</tr>"
        for row in frame.itertuples(index=False)
    )
    script = (
        "function kvFilter(box){const table=box.closest('table');"
        "const wanted=[...table.tHead.querySelectorAll('input')].map(i=>i.value.toLowerCase());"
        "for(const row of table.tBodies[0].rows){row.style.display="
        "wanted.every((w,i)=>row.cells[i].textContent.toLowerCase().includes(w))?'':'none';}}"
    )
    style = f"max-height:{height_px}px;overflow:auto;font-size:85%"
    return (
        f"<script>{script}</script><div style='{style}'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )
