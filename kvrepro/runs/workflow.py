"""A profile's cells through Snakemake: marks of what is complete, one run of it, and why cells failed.

Snakemake deletes the outputs of a job that fails or is begun again, so it owns no results: it makes a mark per cell,
and marks are set to what is complete before each run.
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

POLL_S = 0.5
FAILED = "failed"  # how the line of a failed cell begins
_QUIET = ("--quiet", "rules")


def set_marks(profile: Profile) -> None:
    """Marks of exactly the complete cells, as old as these, so that figures older than a cell are drawn again."""
    for folder in profile.folders:
        if folder.is_complete:
            folder.mark.parent.mkdir(parents=True, exist_ok=True)
            folder.mark.touch()
            written = (folder.path / MANIFEST).stat().st_mtime_ns
            os.utime(folder.mark, ns=(written, written))
        else:
            folder.mark.unlink(missing_ok=True)


def snakemake_command(
    profile: str, targets: Sequence[Path], cores: int, gpus: int | None = None, more: str = ""
) -> list[str]:
    """Snakemake's command line.

    Args:
        targets: marks of the cells to make; none makes all and the figures.
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
    """Run it below a progress bar over the profile's cells; returns its exit code, its words are in `snakemake.log`.

    Args:
        environment: of its processes; None for this process' own.
    """
    folders = profile.folders
    log = results_root() / profile.name / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out, tqdm(total=len(folders), desc=f"{profile.name} cells", file=sys.stderr) as bar:
        # a group of its own: Ctrl-C reaches this process alone, which ends the others
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            while process.poll() is None:
                _show(bar, folders)
                time.sleep(POLL_S)
        finally:
            # what a Snakemake that was killed left behind in its process group; Windows has none
            if process.poll() is not None and hasattr(os, "killpg"):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        _show(bar, folders)
    return process.returncode


def failures(profile: Profile, since: float) -> list[str]:
    """A line per cell that is not complete: why, and where its log is.

    Args:
        since: when the run began, in seconds since the epoch; older logs are of other runs.
    """
    lines = []
    for folder in profile.folders:
        if folder.is_complete:
            continue
        if folder.log.is_file() and folder.log.stat().st_mtime >= since:
            written = _lines(folder.log)
            # the message of the command line is one line; without it the last thing that was written
            said = [line.removeprefix("kvrepro run: ") for line in written if line.startswith("kvrepro run: ")]
            reason = (said or written or ["its process was killed before it wrote anything"])[-1]
            lines.append(f"{FAILED}: {folder.cell_id}: {reason} (log: {folder.log})")
        else:
            lines.append(f"not started: {folder.cell_id}")
    return lines


def snakemake_error(profile: str) -> RunError:
    """Why Snakemake itself failed, where no cell did."""
    log = results_root() / profile / "snakemake.log"
    lines = _lines(log)
    named = [line for line in lines if "error" in line.lower()]
    return RunError(f"Snakemake failed: {(named or lines or ['it wrote nothing'])[-1]} (log: {log})")


def _lines(log: Path) -> list[str]:
    return [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]


def _show(bar: tqdm, folders: list[CellFolder]) -> None:
    states = [folder.state for folder in folders]
    done, running = states.count("done"), states.count("running")
    bar.set_postfix_str(f"{running} running, {len(folders) - done - running} left", refresh=False)
    bar.update(done - bar.n)
