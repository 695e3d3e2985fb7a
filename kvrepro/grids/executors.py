"""Where the cells of a grid run when not on this machine: a folder of `profiles/`, and the scheduler's own words."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import KvreproError, UnknownNameError
from ..files import read_yaml
from ..paths import project_root, results_root
from .folder import GridFolder

CONFIG, STATUS = "config.yaml", "status.sh"
LIMIT_S = 20  # for a scheduler's answer
CANCEL_S = 15.0  # until a queue must be empty
_QUEUED = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT")
_RUNNING = ("RUNNING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")


@dataclass(frozen=True)
class Job:
    """One job of a scheduler's queue.

    Attributes:
        grid: name of the `GridFolder` that it was submitted for.
        cell: the cell that it makes, or of which it makes the `part`, such as `1-of-4`; None for a measurement.
        state: `queued` or `running`.
        host: where it runs, empty while it does not.
    """

    id: str
    grid: str
    cell: str | None
    part: str | None
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
        if folder.is_dir() and not (folder / CONFIG).is_file():
            raise KvreproError(f"executor {name}: the folder has no {CONFIG} for Snakemake; profiles/slurm has one")
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
        found = cls(folder.resolve(), plugin, settings)
        if found.is_slurm and shutil.which("sbatch") is None:
            raise KvreproError(f"executor {name}: there is no `sbatch` here: run it on a login node of the cluster")
        if found.is_slurm and _ask("sinfo", "--noheader") is None:
            raise KvreproError(f"executor {name}: SLURM does not answer: run it where `sinfo` lists its nodes")
        if plugin == "kubernetes" and "container-image" not in settings:
            raise KvreproError(
                f"executor {name}: {folder / CONFIG} names no container-image: copy the folder, follow its comments, "
                "and give its path"
            )
        return found

    @property
    def is_slurm(self) -> bool:
        """Whether jobs are submitted by SLURM's `sbatch`."""
        return "sbatch" in str(self.settings.get("cluster-generic-submit-cmd", ""))

    @property
    def n_jobs(self) -> int:
        """Jobs at once, as the file says."""
        jobs = self.settings.get("jobs", 100)
        return int(jobs) if str(jobs).isdigit() else sys.maxsize

    def default(self, resource: str) -> int | None:
        """What the file asks for where a cell's need is not known, minutes for `runtime`; None where it does not say.

        Raises:
            KvreproError: it says so in another way than this.
        """
        given = self.settings.get("default-resources") or {}
        if not isinstance(given, dict):
            given = dict(item.split("=", 1) for item in ([given] if isinstance(given, str) else given))
        if (value := given.get(resource)) is None:
            return None
        if not (found := re.fullmatch(r"(\d+)([mhd]?)", str(value))):
            raise KvreproError(
                f"{self.folder / CONFIG}: {resource}={value!r}: a number, for minutes also 90m, 12h or 2d"
            )
        return int(found[1]) * {"": 1, "m": 1, "h": 60, "d": 1440}[found[2]]

    def flags(self) -> list[str]:
        """Flags of Snakemake that the file cannot know: where the program beside it lies."""
        status = self.folder / STATUS
        is_asked = self.plugin == "cluster-generic" and "cluster-generic-status-cmd" not in self.settings
        return [f"--cluster-generic-status-cmd=sh {shlex.quote(str(status))}"] if is_asked and status.is_file() else []

    def asked(self, grid: GridFolder, profile: str, needs: Mapping[str, int], *, is_alone: bool = False) -> str:
        """What `sbatch` is told of a job; of other schedulers, nothing: their file names the resources.

        Args:
            needs: `mem_mb`, `runtime_min`, `gpus`; 0 asks for nothing.
            is_alone: nothing else may run on its node.
        """
        if not self.is_slurm:
            return ""
        given = {"mem": f"{needs['mem_mb']}M", "time": str(needs["runtime_min"]), "gpus": str(needs["gpus"])}
        wanted = dict(zip(given, (needs["mem_mb"], needs["runtime_min"], needs["gpus"]), strict=True))
        logs = results_root() / profile / "logs" / "slurm"
        flags = [f"--job-name={_job_name(profile, grid.name)}", f"--output={logs / '%j.log'}", "--ntasks=1"]
        flags += [f"--{name}={value}" for name, value in given.items() if wanted[name]]
        return shlex.join([*flags, *(["--exclusive"] if is_alone else [])])

    def check_gpus(self) -> None:
        """Refuse a cluster without GPUs, which would refuse every job.

        Raises:
            KvreproError: `sinfo` knows of none.
        """
        known = _ask("sinfo", "--noheader", "--format=%G") if self.is_slurm else None
        if known and "gpu" not in known:
            raise KvreproError(
                f"executor {self.folder.name}: no node of this cluster has GPUs (sinfo): --gpus 0 runs on processors"
            )


def queued_jobs(profile: str) -> list[Job]:
    """This user's jobs of the profile's grids that wait or run.

    None where there is no SLURM here; where it does not answer, a line says so.
    """
    return _listed(profile) or []


def _listed(profile: str) -> list[Job] | None:
    """As `queued_jobs`; None where it is not known."""
    if shutil.which("squeue") is None:
        return []
    found, begin = [], _job_name(profile, "")
    listed = _ask("squeue", "--noheader", f"--user={os.getuid()}", "--format=%i|%T|%N|%j|%k")
    if listed is None:
        return None
    for line in listed.splitlines():
        number, state, host, name, comment = line.strip().split("|", 4)
        if name.startswith(begin) and state in _QUEUED + _RUNNING:
            # as Snakemake writes them: shard cell=tiny-r1-llama/chain-12/full-none/2beff874 part=1-of-2
            of = dict(re.findall(r"(cell|part)=(.*?)(?= part=|$)", comment))
            known = "queued" if state in _QUEUED else "running"
            found.append(Job(number, name.removeprefix(begin), of.get("cell"), of.get("part"), known, host))
    return found


def grids_with_jobs(profile: str) -> set[str] | None:
    """Names of the grids of which jobs wait or run; None where that is not known, as on a machine without SLURM."""
    listed = _listed(profile) if shutil.which("squeue") else None
    return None if listed is None else {job.grid for job in listed}


def cancel(profile: str, grids: Iterable[str], *, only_queued: bool = False) -> int:
    """Cancel the jobs of these grids and wait until the queue has none of them; returns how many there were.

    Args:
        only_queued: let those that run go on.
    """
    grids, cancelled = set(grids), set()
    deadline, n_empty = time.monotonic() + CANCEL_S, 0
    # a submission that was under way when Snakemake ended shows up a moment later
    while n_empty < 2 and time.monotonic() < deadline:
        listed = _listed(profile)
        left = [j.id for j in listed or () if j.grid in grids and (j.state == "queued" or not only_queued)]
        n_empty = 0 if left or listed is None else n_empty + 1
        if left:
            # `quiet`: of one that has ended meanwhile there is nothing to say
            _ask("scancel", "--quiet", *left)
            # at once, and not after the time that they are given to end: what they have is on disk
            _ask("scancel", "--quiet", "--signal=KILL", "--full", *left)
        cancelled |= set(left)
        time.sleep(0.3)
    if n_empty < 2:
        _say(f"jobs of {', '.join(sorted(grids))} may be left: squeue --me shows them")
    return len(cancelled)


def _job_name(profile: str, grid: str) -> str:
    # two hyphens end the profile's name, for `tiny` begins `tiny-methods` as well
    return f"kvrepro-{profile}--{grid}"


def _ask(*command: str) -> str | None:
    """A scheduler's answer; None where it does not come, and one line says why."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        _say(f"{command[0]} did not answer within {LIMIT_S} s")
        return None
    if done.returncode:
        _say(f"{command[0]}: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1]}")
        return None
    return done.stdout


@cache
def _say(text: str) -> None:
    """Once: a scheduler that is away is asked again and again."""
    print(text, file=sys.stderr)
