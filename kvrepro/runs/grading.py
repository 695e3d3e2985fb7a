"""Replies graded by their benchmark: those of a run, and stored records once more, written beside the originals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..benchmarks.table import benchmark_entry, is_local, load_problems
from ..engine.requests import LENGTH_LIMIT, NAN_LOGITS, TRUNCATED, WITHOUT_ANSWER
from ..errors import KvreproError
from ..graders.grading import grade_many
from ..graders.score import GRADERS, Score
from .folder import MANIFEST, RECORDS, read_manifest, read_records

# how generation ended: kept by a new grade
ENDED_STATUSES = (TRUNCATED, LENGTH_LIMIT, NAN_LOGITS)


def check_same_problems(rows: Iterable[Mapping[str, Any]], golds: Mapping[str, str], name: str) -> None:
    """Records must be of this benchmark: known ids with the same golds.

    Raises:
        KvreproError: ids or golds that the benchmark does not have.
    """
    strange = sorted({row["problem_id"] for row in rows if row["problem_id"] not in golds})
    if strange:
        raise KvreproError(f"records are of another benchmark than {name}: it has no problem {strange[:3]}")
    changed = sorted({row["problem_id"] for row in rows if row["gold"] != golds[row["problem_id"]]})
    if changed:
        raise KvreproError(
            f"golds of {name} differ from those in the records for {changed[:3]}; rows of another version?"
        )


def regrade(
    rows: list[dict[str, Any]],
    kind: str,
    grader: str = "strict",
    workers: int | None = None,
    options: Mapping[str, Mapping[str, str]] | None = None,
) -> list[dict[str, Any]]:
    """Copies of the records with new `correct`, `answer`, `rule`, `status` and `grader`.

    Args:
        options: problem id -> letter -> text, of a multiple-choice benchmark. Records do not hold them, because the
            questions of GPQA must not spread.

    A status that says how generation ended (`truncated`, `length_limit`, `nan_logits`) is kept, so that a cut reply
    stays countable. A reply that is `truncated` or ended with `nan_logits` is never correct under `strict`. DynTS
    grades thoughts that never ended as if they were answers: under `dynts_compat` a `truncated` reply becomes
    `length_limit`, a reply that the limit cut and that was graded all the same.
    """
    items = [grading_item(row, row.get("kind", kind), (options or {}).get(row["problem_id"])) for row in rows]
    scores = grade_many(items, workers, grader=grader)
    return [_graded(row, score, grader) for row, score in zip(rows, scores, strict=True)]


def grading_item(row: Mapping[str, Any], kind: str, options: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A record as an item of `grade_many`: graded from where it says that its answer begins."""
    item = {
        "response": row["text"],
        "gold": row["gold"],
        "kind": kind,
        "options": options,
        "finish_reason": "length" if row["status"] in ENDED_STATUSES else "stop",
    }
    if row["status"] in WITHOUT_ANSWER:
        return {**item, "answer_start": None}
    # records of earlier versions do not say it
    return {**item, "answer_start": row["answer_start"]} if "answer_start" in row else item


def _graded(row: dict[str, Any], score: Score, grader: str) -> dict[str, Any]:
    status = row["status"] if row["status"] in ENDED_STATUSES else score.status
    if status == TRUNCATED and grader == "dynts_compat":
        status = LENGTH_LIMIT
    return {
        **row,
        "status": status,
        "answer": None if status in WITHOUT_ANSWER else score.answer,
        "correct": score.correct and status not in WITHOUT_ANSWER,
        "rule": score.rule,
        "grader": grader,
    }


def find_records(path: str | Path) -> list[Path]:
    """The file itself, or every `records.jsonl` below a folder (unfinished cells, whose folders are hidden, apart)."""
    path = Path(path)
    if any(path.name.endswith(f".{grader}.jsonl") for grader in GRADERS):
        raise KvreproError(f"{path.name} is itself a regraded file; give the run's {RECORDS}")
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob(RECORDS))
    found = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not found:
        raise KvreproError(f"{path} holds no {RECORDS}")
    return found


class StoredReplies(NamedTuple):
    """Records of one file, and what grading them needs from elsewhere.

    Attributes:
        config: the cell's, from the manifest beside the file; empty without one.
        kind: answer kind of the benchmark; None where neither manifest nor records say it.
        options: problem id -> letter -> text, of a multiple-choice benchmark.
        without_options: why there are none, where the benchmark has some.
    """

    rows: list[dict[str, Any]]
    config: dict[str, Any]
    kind: str | None
    options: dict[str, dict[str, str]]
    without_options: str | None


def stored_replies(path: Path) -> StoredReplies:
    """Read a records file, and its benchmark if its rows lie on this machine or its options' texts are needed.

    The records are then checked against the benchmark: options do not stand in records, because the questions of GPQA
    must not spread.

    Raises:
        KvreproError: as `read_records`, or the records are of another benchmark than their manifest says.
        RunError: as `read_records`.
    """
    rows, config = read_records(path), config_beside(path)
    if not isinstance(name := config.get("benchmark"), str):
        return StoredReplies(rows, config, rows[0].get("kind"), {}, None)
    kind, found = benchmark_entry(name).kind, ({}, None)
    if is_local(name) or kind == "choice":
        found = _options(name, config.get("prompt_style") or "dynts", rows)
    return StoredReplies(rows, config, kind, *found)


def config_beside(path: Path) -> dict[str, Any]:
    """The cell's parameters in the manifest beside a records file; empty where there is none."""
    if not path.with_name(MANIFEST).is_file():
        return {}
    content = read_manifest(path.parent)
    # a manifest that was written by hand may have them at its top
    config = content.get("config")
    own = config if isinstance(config, Mapping) else {}
    return {**content, **{name: value for name, value in own.items() if value is not None}}


def _options(name: str, style: str, rows: list[dict[str, Any]]) -> tuple[dict[str, dict[str, str]], str | None]:
    try:
        problems = load_problems(name, prompt_style=style)
    except KvreproError as error:
        if is_local(name):
            raise
        return {}, str(error)
    check_same_problems(rows, {p.problem_id: p.gold for p in problems}, name)
    return {p.problem_id: p.options for p in problems}, None
