"""Replies under both graders: verdicts, what they come to, published scores, and a table to filter in a notebook."""

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
from ..scores.sentences import difference_sentence
from ..scores.statistics import interval, paired_comparison

TAIL_CHARACTERS = 160
STRICT, COMPAT = "strict", "compat"


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


def grader_scores(frame: pd.DataFrame) -> pd.DataFrame:
    """Pass@1 per kind under both graders: columns kind, grader, pass_at_1, pass_at_1_lo, pass_at_1_hi (percent,
    95 %, clustered by problem), n_problems, n_samples.

    Args:
        frame: what `compare_graders` returned.
    """
    rows = []
    for kind, part in frame.groupby("kind"):
        for grader in (STRICT, COMPAT):
            score = interval(_by_problem(part, grader))
            points = {"": score.estimate, "_lo": score.lo, "_hi": score.hi}
            row = {"kind": kind, "grader": grader, **{f"pass_at_1{end}": 100 * v for end, v in points.items()}}
            rows.append({**row, "n_problems": score.n_problems, "n_samples": len(part) / score.n_problems})
    return pd.DataFrame(rows)


def _by_problem(part: pd.DataFrame, grader: str) -> pd.Series:
    return part.groupby("problem_id")[grader].mean().astype(float)


def grader_sentences(frame: pd.DataFrame) -> list[str]:
    """Per kind on how many replies the graders disagree, who is milder, and what that does to the score.

    Args:
        frame: what `compare_graders` returned.
    """
    found = []
    for kind, part in frame.groupby("kind"):
        only_compat, only_strict = (part.compat & ~part.strict).sum(), (part.strict & ~part.compat).sum()
        text = f"{kind}: the graders disagree on {only_compat + only_strict:,} of {len(part):,} replies"
        if only_compat + only_strict:
            text += f" (right under compat alone: {only_compat:,}; under strict alone: {only_strict:,})"
        scores = [_by_problem(part, grader) for grader in (COMPAT, STRICT)]
        moved = difference_sentence(COMPAT, STRICT, paired_comparison(*scores)) if len(scores[0]) > 1 else ""
        found.append(f"{text}. {moved}".rstrip())
    return found


def coverage_sentence(coverage: pd.DataFrame) -> str:
    """How often each kind of interval held the true score, least and most over the true scores.

    Args:
        coverage: a column of fractions per kind of interval, a row per true score.
    """
    spans = (f"{name} {100 * values.min():.0f} to {100 * values.max():.0f} %" for name, values in coverage.items())
    return f"Of the simulated cells these 95 % intervals hold the true score: {', '.join(spans)}."


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
    left = "text-align:left;vertical-align:top;padding:.2em .5em"
    ground = "position:sticky;top:0;background:var(--jp-layout-color0, Canvas)"
    head = "".join(
        f"<th style='{left};{ground}'>{html.escape(str(name))}<br><input size='7' "
        f"aria-label='filter {html.escape(str(name), quote=True)}' oninput='kvFilter(this)'></th>"
        for name in frame.columns
    )
    # pandas' own table would write line breaks as text and round numbers
    body = "".join(
        "<tr>"
        + "".join(f"<td style='{left};max-width:22em;overflow-wrap:anywhere'>{_text(v)}</td>" for v in row)
        + "</tr>"
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
        f"<script>{script}</script><div tabindex='0' style='{style}'><table style='margin:0'><thead><tr>{head}</tr>"
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _text(value: Any) -> str:
    return "\N{EN DASH}" if value is None or value != value else html.escape(str(value))
