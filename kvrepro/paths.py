"""The only code that knows folders and reads environment variables (each is listed in the README)."""

from __future__ import annotations

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKPOINTS = PACKAGE / "tiny" / "checkpoints"
GENERATED_BENCHMARKS = PACKAGE / "benchmarks" / "generated"


def project_root() -> Path:
    """The folder with notebooks and parameter files: `KVREPRO_ROOT`, or the checkout this package lives in."""
    return Path(os.environ.get("KVREPRO_ROOT") or PACKAGE.parent).resolve()


def results_root() -> Path:
    """Where runs are written: `KVREPRO_RESULTS`, or `results/` in the project."""
    return Path(os.environ.get("KVREPRO_RESULTS") or project_root() / "results").resolve()


def data_dir() -> Path | None:
    """Local folder with benchmark rows as JSONL for offline use: `KVREPRO_DATA`, or None for the Hub."""
    value = os.environ.get("KVREPRO_DATA")
    return Path(value).expanduser().resolve() if value else None


def pin_folders() -> None:
    """Make the folders of the environment absolute, so that child processes elsewhere mean the same ones."""
    for name in ("KVREPRO_ROOT", "KVREPRO_RESULTS", "KVREPRO_DATA"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().resolve())
