"""A cell's replies, made by one run or by many, into graded records and a manifest. Needs neither weights nor GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..benchmarks.problem import Problem
from ..benchmarks.prompts import rows_hash
from ..benchmarks.table import benchmark_entry
from ..engine.requests import RunStats
from ..files import replacing
from ..graders import REVISION
from ..scores.metrics import summarise
from .config import CellConfig
from .folder import RECORDS
from .grading import regrade
from .identity import ENGINE_REVISION
from .replies import Key, Replies

# replies whose texts are in memory at once
GRADED_AT_ONCE = 32
# what the manifest has at its top, as the first run that made replies says it; packed, as the next list
_OF_FIRST = (
    "method", "decoder", "batch_invariant", "captured", "observe_in_graph", "thought", "weights", "revision",
    "stand_in", "predictor", "prompts_sha256", "versions", "git", "hardware",
)  # fmt: skip
# what the manifest has of every run; packed
_OF_EACH = (
    "shard", "host", "pid", "job", "versions", "git", "hardware", "decoder", "batch_invariant", "started", "ended",
    "wall_s", "replies", "stats",
)  # fmt: skip


def graded(problems: Sequence[Problem], rows: list[dict[str, Any]], config: CellConfig) -> list[dict[str, Any]]:
    """Rows with question (but of gated sets), gold, extracted answer, verdict and the rule that decided."""
    entry = benchmark_entry(config.benchmark)
    # records travel, and the questions of a gated set must not
    asked = {p.problem_id: {"gold": p.gold} | ({} if entry.is_gated else {"question": p.question}) for p in problems}
    options = {p.problem_id: p.options for p in problems}
    rows = [{**row, **asked[row["problem_id"]]} for row in rows]
    found = regrade(rows, entry.kind, workers=1, options=options)
    return [{name: value for name, value in row.items() if name != "grader"} for row in found]


def write_records(
    folder: Path, config: CellConfig, problems: Sequence[Problem], keys: Sequence[Key], replies: Replies
) -> tuple[list[dict[str, Any]], str]:
    """Grade the replies of these keys and write them in this order; few texts are in memory at a time.

    Returns:
        The records without their texts, and SHA-256 of the file in hexadecimal digits.

    Raises:
        RunError: a reply is missing, or there is one that the cell does not have.
    """
    replies.check(keys)
    if replies.twice:
        print(f"{replies.twice} replies were made twice; those of the run that started first count", file=sys.stderr)
    records, digest = [], hashlib.sha256()
    with replacing(folder / RECORDS) as beside, beside.open("wb") as file:
        for start in range(0, len(keys), GRADED_AT_ONCE):
            rows = [replies.read(key) for key in keys[start : start + GRADED_AT_ONCE]]
            for record in graded(problems, rows, config):
                line = json.dumps(record).encode() + b"\n"
                file.write(line)
                digest.update(line)
                records.append({name: value for name, value in record.items() if name != "text"})
    return records, digest.hexdigest()


def manifest_of(
    config: CellConfig,
    problems: Sequence[Problem],
    origin: dict[str, Any],
    records: Sequence[dict[str, Any]],
    runs: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What a cell's manifest says, but for what only the caller knows.

    Args:
        origin: where the benchmark's rows came from.
        records: graded, with or without their texts.
        runs: in the order in which they started; one that only gathered has no decoder.
    """
    runs = [_shown(run) for run in runs]
    first = next(run for run in runs if "decoder" in run)
    stats = RunStats.combined([run["stats"] for run in runs if "stats" in run])
    return {
        "cell_id": config.cell_id,
        "protocol": ENGINE_REVISION,
        "config": config.resolved(),
        "n_records": len(records),
        "grader_revision": REVISION,
        "score": dataclasses.asdict(summarise(records)),
        "status": dict(Counter(record["status"] for record in records)),
        "stats": {**dataclasses.asdict(stats), "decode_s": stats.decode_s, "decode_tps": stats.decode_tps},
        "evictions": sum(record["evictions"] for record in records),
        "kv_tokens_peak": max(record["peak_tokens"] for record in records),
        "pin_overflow_tokens": sum(record["pin_overflow_tokens"] for record in records),
        "rows_sha256": rows_hash(problems),
        "benchmark": origin,
        **{name: first[name] for name in _OF_FIRST},
        "started": runs[0].get("started", first["started"]),
        "ended": runs[-1]["ended"],
        "wall_s": sum(run.get("wall_s", 0.0) for run in runs),
        "runs": [{name: run.get(name) for name in _OF_EACH} for run in runs],
    }


def _shown(run: dict[str, Any]) -> dict[str, Any]:
    """A run with the most memory of its GPU, which is known at its end, among its hardware."""
    peak = {name: run[name] for name in ("cuda_peak_bytes",) if name in run}
    return {**run, "hardware": {**run["hardware"], **peak}} if peak else run
