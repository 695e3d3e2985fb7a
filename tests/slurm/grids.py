"""A `kvrepro grid` on the test cluster as it is seen from outside: its jobs, its processes, its results."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PROFILE = "smoke"
POLL_S = 0.1


class CheckError(Exception):
    """Something is not as it has to be; one line."""


@dataclass
class Seen:
    """A process of a job: when it began and was seen last (seconds since the epoch), and what it is."""

    job: str
    what: str
    device: str | None
    begin: float
    end: float


class Watch(threading.Thread):
    """Looks every `POLL_S` at the processes that write to a results folder: by the pid, all that were seen."""

    def __init__(self, results: Path):
        super().__init__(daemon=True)
        self.results, self.seen = results, dict[tuple[int, float], Seen | None]()
        self._ended = threading.Event()

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(POLL_S):
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    self._look(process)

    def _look(self, process: psutil.Process) -> None:
        key = (process.pid, process.create_time())
        what = _kind(process.cmdline())
        # a process gets its command line a moment after it is there
        if self.seen.get(key) is None and what:
            found = process.environ()
            if found.get("KVREPRO_RESULTS") == str(self.results) and "SLURM_JOB_ID" in found:
                device = found.get("CUDA_VISIBLE_DEVICES")
                self.seen[key] = Seen(found["SLURM_JOB_ID"], what, device, key[1], key[1])
        if seen := self.seen.get(key):
            seen.end = time.time()

    def of(self, what: str) -> list[Seen]:
        """The processes of a kind, in the order in which they began."""
        return sorted((s for s in self.seen.values() if s and s.what == what), key=lambda s: s.begin)


def _kind(command: list[str]) -> str | None:
    if "kvrepro.runs.stand_in" in command and "--cell" in command:
        return "cell"
    return "kernel" if any(part.startswith("ipykernel") for part in command) else None


class Grid:
    """`kvrepro grid smoke --executor slurm` in a process of its own."""

    def __init__(self, results: Path, *more: str):
        self.results = results
        results.mkdir(parents=True, exist_ok=True)
        self.log = results / f"grid-{time.time_ns()}.log"
        with self.log.open("w") as out:
            # as a shell starts it in a terminal: in a process group of its own
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kvrepro", "grid", PROFILE, "--executor", "slurm", *more],
                env=environment(results),
                stdout=out,
                stderr=out,
                start_new_session=True,
                # what this process ignores, as `nohup` has it, its children would ignore as well
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def ends(self, within_s: float) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired as error:
            raise CheckError(f"the grid runs still after {within_s:.0f} s: {self.last_words()}") from error

    def last_words(self) -> str:
        """The last line of what it said, without the progress bar."""
        lines = self.log.read_text(errors="replace").replace("\r", "\n").strip().splitlines()
        return lines[-1][:300] if lines else "(nothing said)"

    def kill(self) -> None:
        """End it and all that it started here."""
        for process in processes(self.results):
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait()


def environment(results: Path) -> dict[str, str]:
    """Environment of commands that read and write these results."""
    root = Path(__file__).parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "KVREPRO_RESULTS": str(results), "PYTHONPATH": os.pathsep.join(paths)}


def status(results: Path) -> dict[str, Any]:
    """What `kvrepro status` says."""
    command = [sys.executable, "-m", "kvrepro", "status", PROFILE, "--json"]
    ran = subprocess.run(command, env=environment(results), capture_output=True, text=True, check=False)
    if ran.returncode:
        raise CheckError(f"status failed: {ran.stderr.strip().splitlines()[-1]}")
    return json.loads(ran.stdout)


def manifests(results: Path) -> dict[str, dict[str, Any]]:
    """Manifests of finished cells by the cell's id."""
    found = [json.loads(path.read_text()) for path in (results / PROFILE).glob("*/*/*/*/manifest.json")]
    return {manifest["cell_id"]: manifest for manifest in found}


def processes(results: Path) -> list[psutil.Process]:
    """All that run for a results folder, on the node and here, but for the commands of this check."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.pid != os.getpid()
                and process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get("KVREPRO_RESULTS") == str(results)
            ):
                found.append(process)
    return found


def names_of(found: list[psutil.Process]) -> list[str]:
    """What they are, of those that are there yet."""
    names = []
    for process in found:
        with contextlib.suppress(psutil.Error):
            names.append(" ".join(process.cmdline())[:200])
    return names


def jobs(*states: str, begin: str = f"kvrepro-{PROFILE}--") -> list[str]:
    """Ids of jobs in the cluster's queue, of all states or of these."""
    listed = squeue("%i|%T|%j")
    return [number for number, state, name in listed if name.startswith(begin) and (not states or state in states)]


def squeue(columns: str, *flags: str) -> list[list[str]]:
    """Rows of `squeue`.

    Raises:
        CheckError: it does not answer.
    """
    ran = subprocess.run(
        ["squeue", "--noheader", f"--format={columns}", *flags], capture_output=True, text=True, timeout=60, check=False
    )
    if ran.returncode:
        raise CheckError(f"squeue: {ran.stderr.strip()}")
    return [line.split("|") for line in ran.stdout.splitlines()]


def wait_for(what: str, is_so: Callable[[], object], within_s: float, grid: Grid | None = None) -> float:
    """Wait until it is so; returns after how many seconds it was.

    Raises:
        CheckError: it was not in time, or the grid that was to bring it ended.
    """
    began = time.monotonic()
    while not is_so():
        if grid is not None and grid.process.poll() is not None:
            raise CheckError(f"the grid ended before {what}, exit code {grid.process.returncode}: {grid.last_words()}")
        if time.monotonic() - began > within_s:
            raise CheckError(f"not after {within_s:.0f} s: {what}" + (f"; {grid.last_words()}" if grid else ""))
        time.sleep(POLL_S)
    return time.monotonic() - began


@contextlib.contextmanager
def devices_taken(count: int):
    """Another user's job holds so many GPUs inside the block, so that jobs of the grid have to wait."""
    command = ["sbatch", "--parsable", "--job-name=other", "--mem=100M", f"--gpus={count}", "--output=/dev/null"]
    number = subprocess.check_output([*command, "--wrap=exec sleep 3600"], text=True).strip()
    try:
        wait_for("GPUs taken", lambda: jobs("RUNNING", begin="other"), 30)
        yield
    finally:
        subprocess.run(["scancel", number], check=True)
        wait_for("GPUs free again", lambda: not jobs(begin="other"), 30)
