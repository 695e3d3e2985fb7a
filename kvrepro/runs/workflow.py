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
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from ..errors import RunError
from ..paths import project_root
from .executors import Executor, cancel, grids_with_jobs
from .folder import CellFolder
from .grid_folder import GridFolder
from .grid_plan import GridSettings
from .processes import at_stop, child_command
from .profiles import Profile
from .throughput import BUSY, Panel, was_machine_busy

POLL_S = 0.5
POLL_SHARE = 0.05  # of the time at most is spent on looking at files, which may lie on a slow disk
FAILED = "failed"  # how the line of a failed cell begins
BEGUN = "== "  # how the line begins that stands before what one attempt wrote into a log
# of Snakemake's, about an error that it named before
_GENERAL = ("Exiting because a job execution failed", "WorkflowError:")
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
    """Run it below a progress bar over cells and panels; returns its exit code, its words are in `grid.log`.

    Args:
        environment: of its processes; None for this process' own.
    """
    folders, panels = profile.folders, Panel.all_of(profile)
    total = len(folders) + len(panels)
    with grid.log.open("w") as out, tqdm(total=total, desc=f"{profile.name} cells", file=sys.stderr) as bar:
        # a group of its own: Ctrl-C reaches this process alone, which ends the others
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            while process.poll() is None:
                began = time.monotonic()
                _show(bar, grid, folders, panels)
                time.sleep(max(POLL_S, (time.monotonic() - began) / POLL_SHARE))
        finally:
            # what a Snakemake that was killed left behind in its process group; Windows has none
            if process.poll() is not None and hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        _show(bar, grid, folders, panels)
    return process.returncode


def clear_up(profile: str, own: GridFolder, executor: Executor | None) -> None:
    """Take away what killed grids of the profile left, and say which others run."""
    dead = []
    for grid in GridFolder.all_of(profile):
        if grid == own:
            continue
        if grid.is_alive:
            print(f"another grid of {profile} runs ({grid.name}): its cells are waited for", file=sys.stderr)
        else:
            dead.append(grid)
    if dead and executor is not None and (n := cancel(profile, [g.name for g in dead], only_queued=True)):
        print(f"{n} queued jobs of a grid that was killed are cancelled; those that run go on", file=sys.stderr)
    at_work = grids_with_jobs(profile) if dead else set()
    for grid in dead:
        # its jobs that run still need the folder
        if at_work is not None and grid.name not in at_work:
            grid.remove()


@contextlib.contextmanager
def jobs_end_here(profile: str, grid: GridFolder, settings: GridSettings) -> Iterator[None]:
    """No job of the grid outlives the block on a cluster, however it ends, but for a kill of this very process."""
    if settings.executor is None:
        yield
        return

    def end() -> None:
        cancel(profile, [grid.name])

    with at_stop(end):
        yield
    # a Snakemake that was killed left them
    end()


def failures(profile: Profile, since: float) -> list[str]:
    """A line per cell that is not complete: why, and where its log is.

    Args:
        since: when the run began, in seconds since the epoch; older logs are of other runs.
    """
    left = [folder for folder in profile.folders if not folder.is_complete]
    return [_failure(folder.cell_id, _newest_log(folder), since, "kvrepro run: ") for folder in left]


def _newest_log(folder: CellFolder) -> Path:
    """The cell's log, or that of one of its parts: where one fails, they are not put together."""
    logs = [folder.log, *folder.log.parent.glob(f"{glob.escape(folder.log.stem)}.*-of-*.log")]
    return max((log for log in logs if log.is_file()), key=lambda log: log.stat().st_mtime_ns, default=folder.log)


def unmeasured(panels: Sequence[Panel], since: float) -> list[str]:
    """A line per panel whose throughput is not measured: what it lacks, or as `failures` says it."""
    left = [panel for panel in panels if not panel.is_measured]
    return [
        f"not measured: {panel.lacks}"
        if panel.lacks
        else _failure(f"throughput of {panel.name}", panel.log, since, "kvrepro throughput: ")
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


def _failure(what: str, log: Path, since: float, prefix: str) -> str:
    """Why a process did not do `what`; the command line's message begins with `prefix` and is one line."""
    if not log.is_file() or log.stat().st_mtime < since:
        return f"not started: {what}"
    written = _lines(log)
    began = max((i for i, line in enumerate(written) if line.startswith(BEGUN)), default=-1)
    written = written[began + 1 :]
    # without a message the last thing that was written
    said = [line.removeprefix(prefix) for line in written if line.startswith(prefix)]
    reason = (said or written or ["its process was killed before it wrote anything"])[-1]
    if reason.startswith("{"):
        # a command's last word is its result
        reason = "it was done, and its results were damaged or deleted since: run the grid again"
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


def _show(bar: tqdm, grid: GridFolder, folders: list[CellFolder], panels: list[Panel]) -> None:
    states = [folder.state for folder in folders]
    # marks, which Snakemake makes while it runs: whether a measurement fits its cells is not asked twice a second
    done, running = states.count("done") + sum(grid.mark(panel).is_file() for panel in panels), states.count("running")
    text = f"{running} running, {bar.total - done - running} left"
    if states.count("done") == len(folders) and done < bar.total:
        text += ", measuring throughput alone"
    bar.set_postfix_str(text, refresh=False)
    bar.update(done - bar.n)
