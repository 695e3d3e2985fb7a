"""Cells that tests run, and a finished one made by hand."""

from __future__ import annotations

import json

from kvrepro.files import write_atomic, write_rows
from kvrepro.paths import CHECKPOINTS
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import MANIFEST, NOTEBOOK, RECORDS, CellFolder

HAS_MODEL = (CHECKPOINTS / "tiny-r1-llama" / "model.safetensors").is_file()
# prompts have about 80 tokens, so 24 new tokens make `window` at 90 evict
SETTINGS = {"model": "tiny-r1-llama", "benchmark": "chain-12", "n_problems": 3, "max_new_tokens": 24, "batch_rows": 2}
WINDOW = {**SETTINGS, "method": "window", "budget": 90, "window": 32, "ratio": 0.75}


def build(values, **changes) -> CellConfig:
    return CellConfig.from_mapping({**values, **changes})


def write_finished(profile: str, config: CellConfig) -> CellFolder:
    """A finished cell made by hand."""
    folder = CellFolder.of(profile, config)
    folder.path.mkdir(parents=True)
    score = {
        "pass_at_1": 0.5,
        "pass_at_1_lo": 0.25,
        "pass_at_1_hi": 0.75,
        "n_problems": 4,
        "n_samples": 1,
        "truncated_share": 0.0,
        "mean_new_tokens": 9.0,
    }
    manifest = {
        "cell_id": config.cell_id,
        "n_records": 0,
        "wall_s": 10.0,
        "score": score,
        "stats": {"decode_tps": 100.0},
    }
    write_rows(folder.path / RECORDS, [])
    write_atomic(folder.path / NOTEBOOK, "{}")
    write_atomic(folder.path / MANIFEST, json.dumps(manifest))
    return folder
