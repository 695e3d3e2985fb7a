"""One tidy row per cell of a profile, the scores of its problems, and both as CSV."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..engine.requests import NAN_LOGITS
from ..files import write_atomic
from ..graders import REVISION
from ..paths import results_root
from .config import CellConfig
from .folder import read_manifest, read_records
from .profiles import Profile
from .throughput import BUSY, Panel

# read from left to right as the table is, so it is not stretched over a page
COLUMNS = (
    "model", "benchmark", "method", "label", "protocol", "budget_tokens", "window", "ratio", "n_problems", "n_samples",
    "pass_at_1", "pass_at_1_lo", "pass_at_1_hi", "truncated_share", "mean_new_tokens", "decode_tps", "decode_tps_lo",
    "decode_tps_hi", "tps_vs_full", "run_tps", "kv_tokens_peak", "slack_tokens", "kv_bytes_peak", "evictions", "wall_s",
    "batch_rows", "capacity_tokens", "bytes_per_slot", "cell_id",
)  # fmt: skip

# of them those of the panel's throughput
MEASURED = ("decode_tps", "decode_tps_lo", "decode_tps_hi", "tps_vs_full")


def summary_row(
    config: CellConfig, manifest: dict[str, Any], measured: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """One cell as a row; scores and shares in percent, sizes in tokens and bytes, times in seconds.

    Args:
        measured: the cell's throughput as its panel's file holds it; its columns are empty without. `run_tps` is the
            run's own, with whatever ran beside it.

    `kv_bytes_peak` is the storage the cache held: batch_rows x capacity_tokens x bytes_per_slot, where
    capacity is budget + slack unless no reply could have grown that long.
    """
    score, stats = manifest["score"], manifest["stats"]
    # what was run stands before what was asked for, and the cell's own totals before those of its last session
    known = {**manifest, **config.resolved(), **stats, **score}
    known |= {name: manifest[name] for name in ("evictions", "kv_tokens_peak")}
    known |= {name: 100 * score[name] for name in ("pass_at_1", "pass_at_1_lo", "pass_at_1_hi", "truncated_share")}
    known |= {name: None if measured is None else measured[name] for name in MEASURED} | {
        "run_tps": stats["decode_tps"]
    }
    known |= {"method": config.method_name, "label": config.label}
    known |= {"budget_tokens": config.budget, "kv_bytes_peak": stats["kv_bytes"]}
    known["slack_tokens"] = manifest["method"].get("slack_tokens", 0)
    return {name: known[name] for name in COLUMNS}


def summarise_profile(profile: Profile) -> pd.DataFrame:
    """Rows of the finished cells of a profile, in its order; unfinished cells are absent, never borrowed."""
    rows, older, measured = [], [], _measured(profile)
    for config, folder in zip(profile.cells, profile.folders, strict=True):
        if not folder.is_complete:
            continue
        manifest = read_manifest(folder.path)
        rows.append(summary_row(config, manifest, measured.get(config.cell_id)))
        if broken := manifest.get("status", {}).get(NAN_LOGITS):
            _warn(
                f"{config.cell_id}: {broken} of {manifest['n_records']} replies ended with status {NAN_LOGITS} and "
                "count as wrong; the model's logits were not finite in its dtype"
            )
        if manifest.get("grader_revision", 1) != REVISION:
            older.append(config.cell_id)
    if older:
        _warn(
            f"{len(older)} cells, {older[0]} first, were scored by another revision of the grader than this one "
            f"({REVISION}): `kvrepro grade {results_root() / profile.name}` says what it would change"
        )
    kinds = {"budget_tokens": "Int64", **dict.fromkeys(MEASURED, float)}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(kinds)


def _measured(profile: Profile) -> dict[str, Any]:
    """Throughput by cell, without that of earlier runs of a cell and of methods that it does not order."""
    found = {}
    for panel in Panel.all_of(profile):
        if panel.is_measured:
            read = panel.read()
            busy = {label for label, method in read["methods"].items() if method["verdict"] == BUSY}
            # the full cache goes with the methods: without one that counts nothing is told of it either
            labels = set(read["methods"]) - busy
            found |= {
                name: cell
                for name, cell in read["cells"].items()
                if cell["label"] in labels or (cell["budget"] is None and (labels or not busy))
            }
    return found


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def problem_means(folder: Path) -> dict[str, float]:
    """Mean score of every problem of a finished cell, by problem id, in the order of its records."""
    records = pd.DataFrame(read_records(folder), columns=["problem_id", "correct"])
    return records.groupby("problem_id", sort=False).correct.mean().to_dict()


def write_summary(profile: Profile, folder: Path) -> pd.DataFrame:
    """Write `summary.csv` and `problems.csv` into the folder and return the frame of the first.

    `problems.csv` has a row per finished cell and a column per problem: its mean score in [0, 1], without rounding;
    empty where the cell's benchmark does not have it. Paired differences need no more than that.
    """
    frame = summarise_profile(profile)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "summary.csv", frame.round(4).to_csv(index=False))
    means = {f.cell_id: problem_means(f.path) for f in profile.folders if f.is_complete}
    problems = pd.DataFrame.from_dict(means, orient="index").rename_axis("cell_id")
    texts = problems.map(lambda mean: "" if np.isnan(mean) else np.format_float_positional(mean, trim="-"))
    write_atomic(folder / "problems.csv", texts.to_csv())
    return frame


def read_problem_means(path: Path) -> dict[str, dict[str, float]]:
    """By cell id what `problem_means` found, from a `problems.csv`."""
    # as text, because not every version of pandas reads a number to its last digit
    frame = pd.read_csv(path, index_col="cell_id", dtype=str)
    return {str(cell_id): means.dropna().map(float).to_dict() for cell_id, means in frame.iterrows()}
