"""Replies graded by their benchmark: those of a run, and stored records once more, written beside the originals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..benchmarks.table import benchmark_entry, is_local, load_problems
from ..engine.requests import LENGTH_LIMIT, NAN_LOGITS, TRUNCATED, WITHOUT_ANSWER
from ..errors import KvreproError, RunError
from ..files import read_objects
from ..graders.grading import grade_many
from ..graders.score import GRADERS, KINDS, Score
from ..scores.metrics import LIMIT_STATUSES
from .folder import MANIFEST, RECORDS, read_manifest

# how generation ended: kept by a new grade
ENDED_STATUSES = (*LIMIT_STATUSES, NAN_LOGITS)
NEEDED = ("problem_id", "sample_id", "status", "text", "gold")


def read_records(path: str | Path) -> list[dict[str, Any]]:
    """Records of one file.

    Raises:
        KvreproError: no such file, no records, or rows that are no records of a run.
        RunError: a line that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise KvreproError(f"{path} is no file; give a records.jsonl, or a folder that holds some")
    rows = [row for _, row in read_objects(path, NEEDED, RunError)]
    if not rows:
        raise KvreproError(f"{path} holds no records; a cell without replies has no score")
    return rows


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


def beside(path: Path, grader: str) -> Path:
    """`records.jsonl` -> `records.<grader>.jsonl`."""
    return path.with_name(f"{path.stem}.{grader}{path.suffix}")


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


def kind_beside(path: Path) -> str | None:
    """Answer kind of the benchmark that the manifest beside a records file names; None if there is no manifest."""
    name, _ = benchmark_beside(path)
    kind = None if name is None else benchmark_entry(name).kind
    return kind if kind in KINDS else None


def benchmark_beside(path: Path) -> tuple[str | None, str | None]:
    """(benchmark, prompt style) in the manifest beside a records file; None for what it does not say.

    Raises: RunError where the manifest cannot be read.
    """
    if not path.with_name(MANIFEST).is_file():
        return None, None
    content = read_manifest(path.parent)
    # a run writes both into its config; a manifest by hand may have them at its top
    config = content.get("config")
    for place in (config if isinstance(config, Mapping) else {}, content):
        if isinstance(place.get("benchmark"), str):
            return place["benchmark"], place.get("prompt_style")
    return None, None


def options_of(path: Path, rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, dict[str, str]], str | None]:
    """(problem id -> letter -> text, why there are none) of the benchmark that the records at `path` are of.

    The benchmark is loaded if its rows lie on this machine, or if its options' texts are needed, and the records are
    then checked against it: options do not stand in records, because the questions of GPQA must not spread.

    Raises: KvreproError where the records are of another benchmark than their manifest says.
    """
    name, style = benchmark_beside(path)
    if name is None:
        return {}, None
    if not is_local(name) and benchmark_entry(name).kind != "choice":
        return {}, None
    try:
        problems = load_problems(name, **({"prompt_style": style} if style else {}))
    except KvreproError as error:
        if is_local(name):
            raise
        return {}, str(error)
    check_same_problems(rows, {p.problem_id: p.gold for p in problems}, name)
    return {p.problem_id: p.options for p in problems}, None
