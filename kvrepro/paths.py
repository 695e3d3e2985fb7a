"""The only code that knows folders and reads environment variables (each is listed in docs/reference.md)."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import KvreproError

PACKAGE = Path(__file__).resolve().parent
CHECKPOINTS = PACKAGE / "models" / "checkpoints"
GENERATED_BENCHMARKS = PACKAGE / "benchmarks" / "generated"


def _given(name: str) -> Path | None:
    """The absolute path that an environment variable names, None where it is unset or empty."""
    value = os.environ.get(name)
    return Path(value).expanduser().resolve() if value else None


def _given_input(name: str, what: str) -> Path | None:
    """As `_given`, for what must be there already: a misspelt folder would read as an empty one.

    Raises:
        KvreproError: nothing lies there; names the variable and the path.
    """
    path = _given(name)
    if path is not None and not (path.is_dir() if what == "folder" else path.is_file()):
        raise KvreproError(f"{name}={path}: there is no such {what}; correct the environment variable or unset it")
    return path


def project_root() -> Path:
    """The folder with notebooks and parameter files: `KVREPRO_ROOT`, or the checkout this package lives in."""
    return _given_input("KVREPRO_ROOT", "folder") or PACKAGE.parent


def profiles_folder() -> Path:
    """`nbs_params/` of the project.

    Raises:
        KvreproError: the project has none, as where the package was installed without its checkout.
    """
    folder = project_root() / "nbs_params"
    if not folder.is_dir():
        raise KvreproError(f"{folder.parent} has no folder nbs_params: set KVREPRO_ROOT to a checkout of kvrepro")
    return folder


def results_root() -> Path:
    """Where runs are written: `KVREPRO_RESULTS`, or `results/` in the project."""
    return _given("KVREPRO_RESULTS") or project_root() / "results"


def data_dir() -> Path | None:
    """Local folder with benchmark rows as JSONL for offline use: `KVREPRO_DATA`, or None for the Hub."""
    return _given_input("KVREPRO_DATA", "folder")


def cache_root() -> Path:
    """Where fetched models are kept: `KVREPRO_CACHE`, or `~/.cache/kvrepro`."""
    return _given("KVREPRO_CACHE") or Path("~/.cache/kvrepro").expanduser().resolve()


def fetched_folder(name: str) -> Path:
    """The checkpoint that `kvrepro fetch NAME` writes."""
    return cache_root() / "models" / name


def native_folder() -> Path:
    """Where compiled code for this machine's processor is kept."""
    return cache_root() / "native"


def user_models_file() -> Path | None:
    """The user's own rows of the model table: `KVREPRO_MODELS`, or `models.yaml` in the project where there is one."""
    own = project_root() / "models.yaml"
    return _given_input("KVREPRO_MODELS", "file") or (own if own.is_file() else None)


def kvpress_environment() -> Path:
    """The second virtual environment of `kvrepro bench`, in the project's folder `.cache`."""
    return project_root() / ".cache" / "kvpress"


def benchmarks_folder() -> Path:
    """Measurements that are committed, one JSON per device and date."""
    return project_root() / "measurements"


def hub_environment(folder: Path, data: Path, models: Path) -> dict[str, str]:
    """Environment of a child process that sees only this Hub folder, offline, these rows and this model table."""
    return {
        "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1", "KVREPRO_DATA": str(data), "KVREPRO_MODELS": str(models),
    }  # fmt: skip


def pin_folders() -> None:
    """Make the folders of the environment absolute, so that child processes elsewhere mean the same ones.

    Raises:
        KvreproError: one that is read from does not exist.
    """
    for name in ("KVREPRO_ROOT", "KVREPRO_RESULTS", "KVREPRO_DATA", "KVREPRO_CACHE", "KVREPRO_MODELS"):
        if path := _given(name):
            os.environ[name] = str(path)
    project_root(), data_dir(), user_models_file()
