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


def cache_root() -> Path:
    """Where fetched models are kept: `KVREPRO_CACHE`, or `~/.cache/kvrepro`."""
    return Path(os.environ.get("KVREPRO_CACHE") or "~/.cache/kvrepro").expanduser().resolve()


def fetched_folder(name: str) -> Path:
    """The checkpoint that `kvrepro fetch NAME` writes."""
    return cache_root() / "models" / name


def native_folder() -> Path:
    """Where compiled code for this machine's processor is kept."""
    return cache_root() / "native"


def user_models_file() -> Path | None:
    """The user's own rows of the model table: `KVREPRO_MODELS`, or `models.yaml` in the project where there is one."""
    given = os.environ.get("KVREPRO_MODELS")
    path = Path(given).expanduser().resolve() if given else project_root() / "models.yaml"
    return path if given or path.is_file() else None


def kvpress_environment() -> Path:
    """The second virtual environment of `kvrepro bench`, in the project's folder `.cache`."""
    return project_root() / ".cache" / "kvpress"


def benchmarks_folder() -> Path:
    """Measurements that are committed, one JSON per device and date."""
    return project_root() / "benchmarks"


def hub_environment(folder: Path, data: Path, models: Path) -> dict[str, str]:
    """Environment of a child process that sees only this Hub folder, offline, these rows and this model table."""
    return {
        "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "KVREPRO_DATA": str(data), "KVREPRO_MODELS": str(models),
    }  # fmt: skip


def pin_folders() -> None:
    """Make the folders of the environment absolute, so that child processes elsewhere mean the same ones."""
    for name in ("KVREPRO_ROOT", "KVREPRO_RESULTS", "KVREPRO_DATA", "KVREPRO_CACHE", "KVREPRO_MODELS"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().resolve())
