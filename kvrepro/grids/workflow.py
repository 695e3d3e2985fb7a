"""A profile's cells through Snakemake: its command line, one run of it, and why cells failed."""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from ..claims import held
from ..errors import KvreproError, RunError
from ..paths import project_root
from ..runs.folder import CellFolder
from ..runs.processes import Stopped, afterwards, child_command
from ..runs.profiles import Profile
from ..runs.throughput import BUSY, Panel, was_machine_busy
from .display import Display
from .executors import Executor, cancel, grids_with_jobs
from .folder import GridFolder
from .plan import GridSettings

POLL_S = 0.5
POLL_SHARE = 0.05  # of the time at most is spent on looking at files, which may lie on a slow disk
FAILED = "failed"  # how the line of a failed cell begins
BEGUN = "== "  # how the line begins that stands before what one attempt wrote into a log
# of Snakemake's, about an error that it named before
_GENERAL = (
    "Exiting because a job execution failed",
    "WorkflowError:",
    "Error in rule",
    "message: Error",
    "For further error details",
)
_QUIET = ("--quiet", "rules")


def snakemake_command(grid: GridFolder, settings: GridSettings) -> list[str]:
    """Snakemake's command line for a grid that is prepared."""
    executor, gpus = settings.executor, settings.gpus
    where = (
        # profiles of the user's own are for other workflows
        ["--profile=none", f"--cores={settings.cores}"]
        if executor is None
        else [f"--profile={executor.folder}", f"--jobs={settings.cores}", *executor.flags()]
    )
    flags = [
        f"--snakefile={project_root() / 'Snakefile'}",
        # the grid's own, with all of its notes
        f"--directory={grid.path}",
        *where,
        "--workflow-profile=none",
        "--keep-going",
        "--nolock",
        *("--rerun-triggers", "mtime"),
        *([] if not gpus else ["--resources", f"gpu={len(gpus)}"]),
        *("--config", f"plan={grid.plan_file}"),
    ]
    return child_command("snakemake", *flags, *shlex.split(settings.more))


def show_plan(command: Sequence[str]) -> int:
    """Have Snakemake say on the error output what it would run; returns its exit code."""
    return subprocess.run([*command, "--dry-run", *_QUIET], stdout=sys.stderr, check=False).returncode


def run_snakemake(
    command: Sequence[str], grid: GridFolder, profile: Profile, environment: Mapping[str, str] | None = None
) -> int:
    """Run it while `Display` says how far it is; returns its exit code, its words are in `grid.log`.

    Args:
        environment: of its processes; None for this process' own.
    """
    with grid.log.open("w") as out, Display(grid, profile) as display:
        # a group of its own: Ctrl-C reaches this process alone, which ends the others
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            while process.poll() is None:
                began = time.monotonic()
                display.look()
                time.sleep(max(POLL_S, (time.monotonic() - began) / POLL_SHARE))
        except Stopped:
            # whoever handles the signal ends them, and gives them a moment
            raise
        except BaseException:
            _kill_group(process.pid)
            raise
        _kill_group(process.pid)
        display.look()
    return process.returncode


def clear_up(profile: str, own: GridFolder, executor: Executor | None) -> None:
    """Take away what killed grids of the profile left, and say which others run."""
    for grid in GridFolder.all_of(profile):
        if grid == own:
            continue
        try:
            # a claim that is taken over is a dead grid's, and is watched before where that cannot be seen
            with held(grid.lock, f"what the grid {grid.name} left"):
                _clear(profile, grid, executor)
        except KvreproError:
            print(f"another grid of {profile} runs ({grid.name}): its cells are waited for", file=sys.stderr)


def _clear(profile: str, grid: GridFolder, executor: Executor | None) -> None:
    if executor is not None and (n := cancel(profile, [grid.name], only_queued=True)):
        print(f"{n} queued jobs of a grid that was killed are cancelled; those that run go on", file=sys.stderr)
    # jobs that run still need the folder; where they cannot be seen, they may be there
    at_work = grids_with_jobs(profile) if grid.read_plan().get("executor") else set()
    if at_work is not None and grid.name not in at_work:
        grid.remove()


def _kill_group(leader: int) -> None:
    """End what Snakemake left behind, or itself; Windows has no groups."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, signal.SIGKILL)


@contextlib.contextmanager
def jobs_end_here(profile: str, grid: GridFolder, settings: GridSettings) -> Iterator[None]:
    """No job of the grid outlives the block on a cluster, however it ends, but for a kill of this very process."""
    if settings.executor is None or not settings.executor.is_slurm:
        yield
        return
    with afterwards(partial(cancel, profile, [grid.name])):
        yield


def failures(profile: Profile, since: float) -> list[str]:
    """A line per cell that is not complete: why, and where its log is.

    Args:
        since: when the run began, in seconds since the epoch; older logs are of other runs.
    """
    left = [folder for folder in profile.folders if not folder.is_complete]
    return [_failure(folder.cell_id, _logs(folder), since, "kvrepro run: ") for folder in left]


def _logs(folder: CellFolder) -> list[Path]:
    """The cell's log, and those of its parts: where one of them fails, they are not put together."""
    return [folder.log, *folder.log.parent.glob(f"{glob.escape(folder.log.stem)}.*-of-*.log")]


def unmeasured(panels: Sequence[Panel], since: float) -> list[str]:
    """A line per panel whose throughput is not measured: what it lacks, or as `failures` says it."""
    left = [panel for panel in panels if not panel.is_measured]
    return [
        f"not measured: {panel.lacks}"
        if panel.lacks
        else _failure(f"throughput of {panel.name}", [panel.log], since, "kvrepro throughput: ")
        for panel in left
    ]


def noisy(panels: Sequence[Panel]) -> list[str]:
    """A line per panel that was measured and orders nothing: why, and how to measure it again."""
    lines = []
    for panel in panels:
        if panel.is_measured and not panel.is_settled:
            found = panel.read()
            load = f"others kept {100 * found['load']['mean']:.0f} % of the cores busy"
            why = "machine busy" if was_machine_busy(found) else "too noisy to order its ends"
            again = f"kvrepro throughput {panel.profile} --panel {panel.name} --rounds {3 * found['rounds']}"
            methods = ", ".join(name for name, ends in found["methods"].items() if ends["verdict"] == BUSY)
            lines.append(f"not measured: throughput of {panel.name}, {methods}: {why} ({load}); again: {again}")
    return lines


def _failure(what: str, logs: Sequence[Path], since: float, prefix: str) -> str:
    """Why processes did not do `what`; the command line's message begins with `prefix` and is one line."""
    found = []
    for log in logs:
        if log.is_file() and (at := log.stat().st_mtime) >= since:
            written = _lines(log)
            began = max((i for i, line in enumerate(written) if line.startswith(BEGUN)), default=-1)
            said = [line.removeprefix(prefix) for line in written[began + 1 :] if line.startswith(prefix)]
            # without a message the last thing that was written
            words = (said or written[began + 1 :] or ["its process was killed before it wrote anything"])[-1]
            if words.startswith("{"):
                # a command's last word is its result
                words = "it was done, and its results were damaged or deleted since: run the grid again"
            found.append((bool(said), at, words, log))
    if not found:
        return f"not started: {what}"
    _, _, reason, log = max(found)
    return f"{FAILED}: {what}: {reason} (log: {log})"


def snakemake_error(grid: GridFolder) -> RunError:
    """Why Snakemake itself failed, where no cell did."""
    lines, log = _lines(grid.log), grid.kept_log
    # what says that there was an error, and the line after one that ends in a colon
    named = [
        f"{line} {after}" if line.endswith(":") else line for line, after in pairwise([*lines, ""]) if _is_error(line)
    ]
    return RunError(f"Snakemake failed: {(named or lines or ['it wrote nothing'])[-1].strip()} (log: {log})")


def _is_error(line: str) -> bool:
    return "error" in line.lower() and not line.startswith(_GENERAL)


def _lines(log: Path) -> list[str]:
    return [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
