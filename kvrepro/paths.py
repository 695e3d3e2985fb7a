"""The only code that knows folders and, but for the kernels' one, environment variables (see docs/reference.md)."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import re
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from .errors import KvreproError

PACKAGE = Path(__file__).resolve().parent
CHECKPOINTS = PACKAGE / "models" / "checkpoints"
GENERATED_BENCHMARKS = PACKAGE / "benchmarks" / "generated"
# of CUDA, and of HIP, which reads the first one too where its own is unset
_VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
# where all processes of a user on this host meet, whatever TMPDIR says; on disks of the host as a rule
HOST_FOLDERS = ("/tmp", "/var/tmp") if os.name == "posix" else ()


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


def _checkout() -> Path | None:
    """`KVREPRO_ROOT`, or the checkout that this package lives in; None where it was installed without one."""
    beside = PACKAGE.parent
    return _given_input("KVREPRO_ROOT", "folder") or (beside if (beside / "nbs_params").is_dir() else None)


def project_root() -> Path:
    """The folder with notebooks, parameter files and the grid's rules: the checkout, or the copy in the package."""
    return _checkout() or PACKAGE / "project"


def working_root() -> Path:
    """Where files of the user's own are looked for and written: the checkout, or the current folder without one."""
    return _checkout() or Path.cwd()


def profiles_folder() -> Path:
    """`nbs_params/` of the project.

    Raises:
        KvreproError: the project has none.
    """
    folder = project_root() / "nbs_params"
    if not folder.is_dir():
        raise KvreproError(f"{folder.parent} has no folder nbs_params: set KVREPRO_ROOT to a checkout of kvrepro")
    return folder


def committed_summary(profile: str) -> Path | None:
    """The table that a run of the profile is compared with: `notebooks/images/<profile>-summary.csv`, None without."""
    path = project_root() / "notebooks" / "images" / f"{profile}-summary.csv"
    return path if path.is_file() else None


def results_root() -> Path:
    """Where runs are written: `KVREPRO_RESULTS`, or `results/` in the checkout, else in the current folder."""
    return _given("KVREPRO_RESULTS") or working_root() / "results"


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
    """The user's own rows of the model table: `KVREPRO_MODELS`, or `models.yaml` in the working folder, if there."""
    own = working_root() / "models.yaml"
    return _given_input("KVREPRO_MODELS", "file") or (own if own.is_file() else None)


def kvpress_environment() -> Path:
    """The second virtual environment of `kvrepro bench`, in `.cache/` of the checkout, else of the current folder."""
    return working_root() / ".cache" / "kvpress"


def hub_environment(folder: Path, data: Path, models: Path) -> dict[str, str]:
    """Environment of a child process that sees only this Hub folder, offline, these rows and this model table."""
    return {
        "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "KVREPRO_DATA": str(data),
        "KVREPRO_MODELS": str(models),
    }


def fork_server_address() -> str | None:
    """Where the fork server of the grid above listens: `KVREPRO_FORKS`, set by `kvrepro grid` alone."""
    return os.environ.get("KVREPRO_FORKS")


def fork_server_environment(address: str) -> dict[str, str]:
    """Environment of the processes that may ask the server there."""
    return {"KVREPRO_FORKS": address}


def listed_gpus() -> list[str]:
    """Devices that the runs on this host share: `KVREPRO_GPUS`, set by `kvrepro grid` or to limit it; none without."""
    return _names(os.environ.get("KVREPRO_GPUS", ""))


def gpus_environment(names: Sequence[str]) -> dict[str, str]:
    """Environment of the processes that share these devices; of none, they see no GPU."""
    return {"KVREPRO_GPUS": ",".join(names)} if names else dict.fromkeys(_VISIBLE_GPUS, "")


def visible_gpus() -> list[str] | None:
    """Devices that a scheduler or the user has left visible to CUDA or HIP; None where nobody chose."""
    found = (value for name in _VISIBLE_GPUS if (value := os.environ.get(name)) is not None)
    return next(map(_names, found), None)


def is_counted_by_bus() -> bool:
    """Whether CUDA counts devices as `nvidia-smi` does: `CUDA_DEVICE_ORDER`; by itself it puts a fast one first."""
    return os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"


@contextlib.contextmanager
def only_gpus(names: Sequence[str]) -> Iterator[None]:
    """Inside, this process and its children see these devices alone, and share none of them with other runs."""
    changed = ("KVREPRO_GPUS", *_VISIBLE_GPUS)
    before = {name: os.environ.get(name) for name in changed}
    # a child must not wait for what its parent holds
    os.environ.pop("KVREPRO_GPUS", None)
    os.environ.update(dict.fromkeys(_VISIBLE_GPUS, ",".join(names)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _names(text: str) -> list[str]:
    # by commas or blanks; one that is named twice is one
    return list(dict.fromkeys(text.replace(",", " ").split()))


def private_folder(longest: int | None = None) -> Path:
    """A folder of this user's on this host, for what ends with its processes: locks of devices, sockets of kernels.

    Args:
        longest: bytes that its path may have.

    Raises:
        KvreproError: it is somebody else's, or there is no place for it.
    """
    user = os.geteuid() if hasattr(os, "geteuid") else getpass.getuser()
    host = re.sub(r"[^A-Za-z0-9]+", "-", platform.node().partition(".")[0])[-24:]
    places = [Path(place) / f"kvrepro-{user}-{host}" for place in (*HOST_FOLDERS, tempfile.gettempdir())]
    folder = next((place for place in places if _is_made(place, longest)), None)
    if folder is None:
        limit = f", in a path of at most {longest} bytes, as sockets need" if longest else ""
        raise KvreproError(f"none of {', '.join(map(str, places))} can be made{limit}: set TMPDIR to another folder")
    found = folder.lstat()
    if hasattr(os, "geteuid") and (found.st_uid != user or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077):
        raise KvreproError(
            f"{folder} is no folder of yours alone (mode 700), so what lies there could be anyone's: have it removed"
        )
    return folder


def _is_made(folder: Path, longest: int | None) -> bool:
    if longest is not None and len(os.fsencode(folder)) > longest:
        return False
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        return isinstance(error, FileExistsError)
    return True


def scheduler_job() -> str | None:
    """The id of the scheduler's job that this process runs in: `SLURM_JOB_ID`, None outside of one."""
    return os.environ.get("SLURM_JOB_ID")


def pin_folders() -> None:
    """Make the folders of the environment absolute, so that child processes elsewhere mean the same ones.

    Raises:
        KvreproError: one that is read from does not exist.
    """
    for name in ("KVREPRO_ROOT", "KVREPRO_RESULTS", "KVREPRO_DATA", "KVREPRO_CACHE", "KVREPRO_MODELS"):
        if path := _given(name):
            os.environ[name] = str(path)
    project_root(), data_dir(), user_models_file()
