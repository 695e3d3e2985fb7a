"""One tidy row per cell of a profile, and its CSV."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd

from ..engine.requests import NAN_LOGITS
from ..files import write_atomic
from ..graders import REVISION
from ..paths import results_root
from .config import CellConfig
from .folder import CellFolder, read_manifest
from .profiles import Profile

COLUMNS = (
    "model", "benchmark", "method", "label", "protocol", "budget_tokens", "window", "ratio", "n_problems", "n_samples",
    "pass_at_1", "pass_at_1_lo", "pass_at_1_hi", "truncated_share", "mean_new_tokens", "decode_tps", "kv_tokens_peak",
    "slack_tokens", "kv_bytes_peak", "evictions", "wall_s", "batch_rows", "capacity_tokens", "bytes_per_slot",
    "cell_id",
)  # fmt: skip


def summary_row(config: CellConfig, manifest: dict[str, Any]) -> dict[str, Any]:
    """One cell as a row; scores and shares in percent, sizes in tokens and bytes, times in seconds.

    `kv_bytes_peak` is the storage the cache held: batch_rows x capacity_tokens x bytes_per_slot, where
    capacity is budget + slack unless no reply could have grown that long.
    """
    score, stats = manifest["score"], manifest["stats"]
    return {
        "model": config.model, "benchmark": config.benchmark, "method": config.method,
        "label": config.label, "protocol": config.protocol, "window": config.window, "ratio": config.ratio,
        "budget_tokens": config.budget, "n_problems": score["n_problems"], "n_samples": score["n_samples"],
        **{name: 100 * score[name] for name in ("pass_at_1", "pass_at_1_lo", "pass_at_1_hi", "truncated_share")},
        "mean_new_tokens": score["mean_new_tokens"], "decode_tps": stats["decode_tps"],
        "kv_tokens_peak": manifest["kv_tokens_peak"], "slack_tokens": manifest["method"].get("slack_tokens", 0),
        "kv_bytes_peak": stats["kv_bytes"], "evictions": manifest["evictions"], "wall_s": manifest["wall_s"],
        "batch_rows": stats["batch_rows"], "capacity_tokens": stats["capacity_tokens"],
        "bytes_per_slot": stats["bytes_per_slot"], "cell_id": manifest["cell_id"],
    }  # fmt: skip


def summarise_profile(profile: Profile) -> pd.DataFrame:
    """Rows of the finished cells of a profile, in its order; unfinished cells are absent, never borrowed."""
    rows, older = [], []
    for config in profile.cells:
        folder = CellFolder.of(profile.name, config)
        if folder.is_complete:
            manifest = read_manifest(folder.path)
            if broken := manifest.get("status", {}).get(NAN_LOGITS):
                warnings.warn(
                    f"{config.cell_id}: {broken} of {manifest['n_records']} replies ended with status {NAN_LOGITS} and "
                    "count as wrong; the model's logits were not finite in its dtype",
                    RuntimeWarning, stacklevel=2,
                )  # fmt: skip
            if manifest.get("grader_revision", 1) != REVISION:
                older.append(config.cell_id)
            rows.append(summary_row(config, manifest))
    if older:
        warnings.warn(
            f"{len(older)} cells, {older[0]} first, were scored by another revision of the grader than this one "
            f"({REVISION}): `kvrepro grade {results_root() / profile.name}` says what it would change",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"budget_tokens": "Int64"})


def write_summary(profile: Profile) -> pd.DataFrame:
    """Write `results/<profile>/summary.csv` and return the frame."""
    frame = summarise_profile(profile)
    folder = results_root() / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "summary.csv", frame.round(4).to_csv(index=False))
    return frame
