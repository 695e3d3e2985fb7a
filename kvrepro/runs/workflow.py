"""A profile's cells through Snakemake: marks of what is complete, one run of it, and why cells failed.

Snakemake deletes the outputs of a job that fails or is begun again, so it owns no results: it makes a mark per cell and
per panel whose throughput is measured, and marks are set to what is complete before each run.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from ..errors import RunError
from ..paths import project_root, results_root, working_root
from .folder import MANIFEST, CellFolder
from .processes import child_command
from .profiles import Profile
from .throughput import BUSY, Panel, was_machine_busy

POLL_S = 0.5
FAILED = "failed"  # how the line of a failed cell begins
_QUIET = ("--quiet", "rules")


def set_marks(profile: Profile) -> None:
    """Marks of exactly what is complete, as old as it is, so that figures older than that are drawn again.

    A panel that was too noisy has none, so a grid measures it again, once.
    """
    for folder in profile.folders:
        _set(folder.mark, (folder.path / MANIFEST).stat().st_mtime_ns if folder.is_complete else None)
    for panel in Panel.all_of(profile):
        _set(panel.mark, panel.measured_ns if panel.is_settled else None)


def _set(mark: Path, written_ns: int | None) -> None:
    """Make a mark of this age, or remove it."""
    if written_ns is None:
        mark.unlink(missing_ok=True)
        return
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    os.utime(mark, ns=(written_ns, written_ns))


def snakemake_command(
    profile: str, targets: Sequence[Path], cores: int, gpus: int | None = None, more: str = ""
) -> list[str]:
    """Snakemake's command line.

    Args:
        targets: marks to make; none makes all and the figures.
        more: flags of the user's, quoted as in a shell.
    """
    flags = [
        f"--snakefile={project_root() / 'Snakefile'}",
        f"--directory={working_root()}",
        f"--cores={cores}",
        "--keep-going",
        "--rerun-incomplete",
        "--nolock",
        *("--rerun-triggers", "input", "mtime"),
        *([] if gpus is None else ["--resources", f"gpu={gpus}"]),
        *("--config", f"profile={profile}"),
    ]
    return child_command("snakemake", *map(str, targets), *flags, *shlex.split(more))


def show_plan(command: Sequence[str]) -> int:
    """Have Snakemake say on the error output what it would run; returns its exit code."""
    return subprocess.run([*command, "--dry-run", *_QUIET], stdout=sys.stderr, check=False).returncode


def run_snakemake(command: Sequence[str], profile: Profile, environment: Mapping[str, str] | None = None) -> int:
    """Run it below a progress bar over cells and panels; returns its exit code, its words are in `snakemake.log`.

    Args:
        environment: of its processes; None for this process' own.
    """
    folders, panels = profile.folders, Panel.all_of(profile)
    total = len(folders) + len(panels)
    log = results_root() / profile.name / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out, tqdm(total=total, desc=f"{profile.name} cells", file=sys.stderr) as bar:
        # a group of its own: Ctrl-C reaches this process alone, which ends the others
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            while process.poll() is None:
                _show(bar, folders, panels)
                time.sleep(POLL_S)
        finally:
            # what a Snakemake that was killed left behind in its process group; Windows has none
            if process.poll() is not None and hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        _show(bar, folders, panels)
    return process.returncode


def failures(profile: Profile, since: float) -> list[str]:
    """A line per cell that is not complete: why, and where its log is.

    Args:
        since: when the run began, in seconds since the epoch; older logs are of other runs.
    """
    left = [folder for folder in profile.folders if not folder.is_complete]
    return [_failure(folder.cell_id, folder.log, since, "kvrepro run: ") for folder in left]


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
    # without a message the last thing that was written
    said = [line.removeprefix(prefix) for line in written if line.startswith(prefix)]
    reason = (said or written or ["its process was killed before it wrote anything"])[-1]
    return f"{FAILED}: {what}: {reason} (log: {log})"


def snakemake_error(profile: str) -> RunError:
    """Why Snakemake itself failed, where no cell did."""
    log = results_root() / profile / "snakemake.log"
    lines = _lines(log)
    named = [line for line in lines if "error" in line.lower()]
    return RunError(f"Snakemake failed: {(named or lines or ['it wrote nothing'])[-1]} (log: {log})")


def _lines(log: Path) -> list[str]:
    return [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]


def _show(bar: tqdm, folders: list[CellFolder], panels: list[Panel]) -> None:
    states = [folder.state for folder in folders]
    # marks, which Snakemake makes while it runs: whether a measurement fits its cells is not asked twice a second
    done, running = states.count("done") + sum(panel.mark.is_file() for panel in panels), states.count("running")
    text = f"{running} running, {bar.total - done - running} left"
    if states.count("done") == len(folders) and done < bar.total:
        text += ", measuring throughput alone"
    bar.set_postfix_str(text, refresh=False)
    bar.update(done - bar.n)
