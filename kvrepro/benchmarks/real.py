"""Load the six published benchmarks, from a local folder or the Hub, checked and with their provenance."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import KvreproError, check_known
from ..files import read_objects
from .problem import Problem
from .prompts import OPTION_SEED, listed_options, prompt_hash, rows_hash, shuffled_question, user_message
from .sources import REAL_BENCHMARKS, RealBenchmark

_PROBLEM_FIELDS = ("problem", "question", "Question", "input")
_GPQA_WRONG = ("Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def load_real(name: str, **options: Any) -> list[Problem]:
    """Problems of a published benchmark; arguments as of `load_with_provenance`."""
    return load_with_provenance(name, **options)[0]


def load_with_provenance(
    name: str, *, data_dir: str | Path | None = None, prompt_style: str = "dynts", revision: str | None = None
) -> tuple[list[Problem], dict[str, Any]]:
    """Load `<data_dir>/<name>.jsonl`, or the Hub where no folder is given.

    Args:
        data_dir: folder with one JSON object a line and the keys id, problem, answer (for gpqa_d also the original
            columns). None asks the Hub.
        prompt_style: one of `prompts.PROMPT_STYLES`.
        revision: commit, tag or branch of the data set on the Hub; None takes the table's, and the newest if the table
            names none. The commit that it stood for is recorded. A folder has no revisions.

    Returns problems in source order, and what a manifest records about where they came from. Raises `KvreproError` for
    an unknown name or style, missing file or columns, wrong number of rows, repeated ids, empty golds, Hub not
    reachable.
    """
    check_known("benchmark", REAL_BENCHMARKS, name)
    entry = REAL_BENCHMARKS[name]
    rows, origin = _read_hub(entry, revision) if data_dir is None else _read_local(entry, Path(data_dir))
    problems = [_problem(entry, row, number, prompt_style) for number, row in enumerate(rows)]
    _check(entry, problems, origin["source"])
    return problems, {
        "benchmark": name,
        **origin,
        "n_rows": len(problems),
        "rows_sha256": rows_hash(problems),
        "prompt_style": prompt_style,
        "prompts_sha256": prompt_hash(p.question for p in problems),
        "option_seed": OPTION_SEED if entry.kind == "choice" else None,
    }


def _read_local(entry: RealBenchmark, folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    path = folder / f"{entry.name}.jsonl"
    if not path.is_file():
        raise KvreproError(
            f"{path} is missing: put the rows there as JSON lines with the keys id, problem, answer, "
            f"or unset KVREPRO_DATA to load {entry.hub.hub_id} from the Hub"
        )
    rows = [
        _renamed(entry, row, f"{path.name}, line {number}", "Question" in row and entry.kind == "choice")
        for number, row in read_objects(path)
    ]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    is_reference = None if entry.reference_sha256 is None else digest == entry.reference_sha256
    return rows, {"source": f"file:{path.name}", "file_sha256": digest, "is_reference": is_reference}


def _read_hub(entry: RealBenchmark, revision: str | None) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise KvreproError(
            f"loading {entry.name} from the Hub needs the package datasets: pip install 'kvrepro[hub]', "
            f"or set KVREPRO_DATA to a folder with {entry.name}.jsonl (keys id, problem, answer) to work offline"
        ) from error
    source, asked = entry.hub, revision or entry.hub.revision
    commit, unresolved = resolved_commit(source.hub_id, asked)
    rows: list[dict[str, Any]] = []
    fingerprints = []
    for config in source.configs:
        try:
            # all configs from one commit, also while somebody writes to the data set
            loaded = datasets.load_dataset(source.hub_id, config, split=source.split, revision=commit or asked)
        except Exception as error:
            # `datasets` raises many types for "no network", "no access", "no such split"; none of them is hidden
            raise KvreproError(_hub_failure(entry, config, error)) from error
        if set(source.columns.values()) - set(loaded.column_names):
            raise KvreproError(
                f"{source.hub_id} has the columns {sorted(loaded.column_names)}, expected "
                f"{sorted(source.columns.values())}; the data set was changed or is another mirror"
            )
        fingerprints.append(str(getattr(loaded, "_fingerprint", "")))
        rows.extend(_renamed(entry, dict(row), f"{source.hub_id}, row {i}", True) for i, row in enumerate(loaded))
    origin = {"source": f"hub:{source.hub_id}", "configs": list(source.configs), "split": source.split}
    state = {"revision": asked, "commit": commit, "commit_unknown": unresolved, "fingerprints": fingerprints}
    return rows, origin | state


def resolved_commit(hub_id: str, revision: str | None) -> tuple[str | None, str | None]:
    """(commit that a revision stands for now, None) or (None, what kept the Hub from saying it).

    Not knowing it is no failure: rows in the local cache load without the Hub, and their hash identifies them.
    """
    try:
        from huggingface_hub import HfApi

        return HfApi().dataset_info(hub_id, revision=revision, timeout=10).sha, None
    except Exception as error:
        # the errors of its HTTP library have no common base over its versions; the manifest names the one that came
        return None, f"{type(error).__name__}: {str(error)[:200]}"


def _hub_failure(entry: RealBenchmark, config: str | None, error: Exception) -> str:
    terms = f"https://huggingface.co/datasets/{entry.hub.hub_id}"
    gate = f"The set is gated: accept its terms at {terms} and log in with `hf auth login`. "
    return (
        f"cannot load {entry.hub.hub_id} (config {config}, split {entry.hub.split}) from the Hub: "
        f"{type(error).__name__}: {str(error)[:200]}. {gate if entry.hub.is_gated else ''}"
        f"To work offline set KVREPRO_DATA to a folder with {entry.name}.jsonl (keys id, problem, answer)."
    )


def _renamed(entry: RealBenchmark, row: dict[str, Any], place: str, has_hub_names: bool) -> dict[str, Any]:
    """The row with our column names; GPQA's wrong options are kept under `incorrect`."""
    columns = dict(entry.hub.columns) if has_hub_names else {"id": "id", "answer": "answer"}
    columns.setdefault("problem", next((name for name in _PROBLEM_FIELDS if name in row), "problem"))
    needed = [*columns.values(), *(_GPQA_WRONG if has_hub_names and entry.kind == "choice" else ())]
    if missing := [name for name in needed if name not in row]:
        raise KvreproError(f"{place}: no column {missing}; found {sorted(row)}")
    renamed = {ours: row[theirs] for ours, theirs in columns.items()}
    if all(name in row for name in _GPQA_WRONG):
        renamed["incorrect"] = [str(row[name]) for name in _GPQA_WRONG]
    return renamed


def _problem(entry: RealBenchmark, row: Mapping[str, Any], number: int, style: str) -> Problem:
    problem_id = str(row["id"]) if "id" in row else f"{entry.name}-{number:03d}"
    gold = row["answer"]
    # 27.0 of a float column is 27
    is_whole = isinstance(gold, float) and gold.is_integer()
    gold = "" if gold is None else str(int(gold) if is_whole else gold).strip()
    published, mended = entry.gold_fixes.get(number, (None, None))
    if gold == published:
        gold = mended
    text = str(row["problem"] or "").strip()
    if not text:
        raise KvreproError(f"{entry.name}: problem {problem_id!r} has no text")
    if "incorrect" not in row:
        options = listed_options(text) if entry.kind == "choice" else {}
    elif gold:
        text, gold, options = shuffled_question(text, gold, row["incorrect"], problem_id)
    else:
        raise KvreproError(f"{entry.name}: problem {problem_id!r} has an empty gold answer")
    return Problem(problem_id, user_message(text, gold, style), gold, options)


def _check(entry: RealBenchmark, problems: Sequence[Problem], source: str) -> None:
    repeated = [name for name, count in Counter(p.problem_id for p in problems).items() if count > 1]
    if repeated:
        raise KvreproError(
            f"{source}: {len(repeated)} ids occur more than once, e.g. {repeated[:3]}; expected unique ids"
        )
    if empty := [p.problem_id for p in problems if not p.gold.strip()]:
        raise KvreproError(f"{source}: {len(empty)} gold answers are empty: {empty[:5]}")
    if len(problems) != entry.n_problems:
        raise KvreproError(
            f"{source} has {len(problems)} rows, {entry.name} has {entry.n_problems}; it is cut off or another data set"
        )
    if entry.kind == "choice" and (odd := [p.problem_id for p in problems if p.gold not in "ABCD"]):
        raise KvreproError(f"{source}: golds must be letters A to D; not so for {odd[:5]}")
