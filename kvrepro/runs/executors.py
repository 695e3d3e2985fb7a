"""Where the cells of a grid run when not on this machine: a folder of `profiles/`, and the scheduler's own words."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import KvreproError, UnknownNameError
from ..files import read_yaml
from ..paths import project_root, results_root
from .grid_folder import GridFolder

CONFIG = "config.yaml"
LIMIT_S = 20  # for a scheduler's answer
CANCEL_S = 15.0  # until a queue must be empty
_STATES = {"PENDING": "queued", "CONFIGURING": "queued", "REQUEUED": "queued", "SUSPENDED": "queued"}


@dataclass(frozen=True)
class Job:
    """One job of a scheduler's queue.

    Attributes:
        grid: name of the `GridFolder` that it was submitted for.
        what: the job's rule and wildcards, as Snakemake's plugin writes them into its comment.
        state: `queued` or `running`.
        host: where it runs, empty while it does not.
    """

    id: str
    grid: str
    what: str
    state: str
    host: str


@dataclass(frozen=True)
class Executor:
    """A folder with Snakemake's `config.yaml`: of `profiles/`, or the user's own.

    Attributes:
        plugin: which of Snakemake's executors it names.
        settings: the whole file.
    """

    folder: Path
    plugin: str
    settings: dict[str, Any]

    @classmethod
    def load(cls, name: str) -> Executor:
        """By name, or by the folder's path.

        Raises:
            UnknownNameError: neither is there.
            KvreproError: the file names no executor, its plugin is not installed, or the scheduler is not here.
        """
        own = project_root() / "profiles"
        folder = own / name if (own / name / CONFIG).is_file() else Path(name)
        if not (folder / CONFIG).is_file():
            known = sorted(path.parent.name for path in own.glob(f"*/{CONFIG}"))
            raise UnknownNameError("executor", name, [*known, f"a folder with a {CONFIG}"])
        settings = read_yaml(folder / CONFIG, "Snakemake's options, `executor` among them")
        plugin = settings.get("executor")
        if not isinstance(plugin, str):
            raise KvreproError(f"{folder / CONFIG}: executor={plugin!r}: name one of Snakemake's, such as `slurm`")
        package = f"snakemake-executor-plugin-{plugin}"
        if plugin not in ("local", "dryrun") and find_spec(package.replace("-", "_")) is None:
            raise KvreproError(f"executor {name} needs the package {package}: pip install {package}")
        if plugin == "slurm" and shutil.which("sbatch") is None:
            raise KvreproError(f"executor {name}: there is no `sbatch` here: run it on a login node of the cluster")
        return cls(folder.resolve(), plugin, settings)

    @property
    def n_jobs(self) -> int:
        """Jobs at once, as the file says."""
        return int(self.settings.get("jobs", 100))

    def default(self, resource: str) -> int | None:
        """What the file asks for where a cell's need is not known; None where it does not say."""
        given = self.settings.get("default-resources") or {}
        if isinstance(given, list):
            given = dict(str(item).split("=", 1) for item in given)
        return int(given[resource]) if str(given.get(resource, "")).isdigit() else None

    def flags(self, grid: GridFolder, profile: str) -> list[str]:
        """Flags of Snakemake that the file cannot know."""
        if self.plugin != "slurm":
            return []
        logs = results_root() / profile / "logs" / "slurm"
        found = [f"--slurm-jobname-prefix={_prefix(profile, grid.name)}", f"--slurm-logdir={logs}"]
        if not _is_accounted() and "slurm-status-command" not in self.settings:
            # the plugin asks sacct, which never tells it that a job has ended
            found += ["--slurm-status-command=squeue", "--slurm-no-account"]
        return found

    @property
    def alone(self) -> str:
        """What a job asks for beside which nothing may run."""
        return "--exclusive" if self.plugin == "slurm" else ""


def queued_jobs(profile: str) -> dict[str, Job]:
    """Jobs of this user's queue by the cell's id, `/` as `_`, and for a part of a cell `_1-of-4` after it.

    Empty where there is no SLURM here; where it does not answer, with a warning.
    """
    found = {}
    for job in _queue(profile):
        rule, _, wildcards = job.what.partition("_wildcards_")
        if rule in ("rule_cell", "rule_shard"):
            found[wildcards] = job
    return found


def cancel(profile: str, grids: Iterable[str], *, only_queued: bool = False) -> int:
    """Cancel the jobs of these grids and wait until the queue has none of them; returns how many there were.

    Args:
        only_queued: let those that run go on.
    """
    grids, cancelled = set(grids), set()
    deadline, n_empty = time.monotonic() + CANCEL_S, 0
    # a submission that was under way when Snakemake ended shows up a moment later
    while n_empty < 2 and time.monotonic() < deadline:
        left = [j.id for j in _queue(profile) if j.grid in grids and (j.state == "queued" or not only_queued)]
        n_empty = 0 if left else n_empty + 1
        if left:
            _ask("scancel", *left)
        cancelled |= set(left)
        time.sleep(0.3)
    return len(cancelled)


def _prefix(profile: str, grid: str) -> str:
    # letters, digits, - and _ only; two hyphens end the profile's name, for `tiny` begins `tiny-methods` as well
    return re.sub(r"[^A-Za-z0-9-]", "-", f"kvrepro-{profile}--{grid}")


def _queue(profile: str) -> list[Job]:
    """This user's jobs of the profile's grids."""
    if shutil.which("squeue") is None:
        return []
    found = []
    user = str(os.getuid())
    for line in _ask("squeue", "--noheader", f"--user={user}", "--format=%i|%T|%N|%j|%k").splitlines():
        number, state, host, name, what = line.strip().split("|", 4)
        # the plugin adds its own id
        prefix, _, _ = name.rpartition("_")
        begin = _prefix(profile, "")
        if prefix.startswith(begin) and state != "COMPLETING":
            grid = prefix.removeprefix(begin)
            known = _STATES.get(state, "running" if state in ("RUNNING", "STAGE_OUT", "SIGNALING", "STOPPED") else None)
            if known:
                found.append(Job(number, grid, what, known, host))
    return found


def _is_accounted() -> bool:
    """Whether `sacct` tells of jobs: it is installed on clusters without accounting too."""
    if shutil.which("sacct") is None:
        return False
    asked = ["sacct", "--noheader", "--allocations", "--starttime=now"]
    try:
        return subprocess.run(asked, capture_output=True, timeout=LIMIT_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _ask(*command: str) -> str:
    """A scheduler's answer; none, with a warning, where it does not come."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        warnings.warn(f"{command[0]} did not answer within {LIMIT_S} s", RuntimeWarning, stacklevel=2)
        return ""
    if done.returncode and done.stderr.strip():
        warnings.warn(f"{command[0]}: {done.stderr.strip().splitlines()[-1]}", RuntimeWarning, stacklevel=2)
    return done.stdout
