"""The smoke profile on a SLURM of one machine, in five to fifteen minutes: `make test-slurm`, or `check.py [PART ...]`.

It starts the cluster of `cluster.py`, runs grids with `--executor slurm`, stops and kills some, and ends whatever it
started. Prints a line per check and a JSON object; exit code 1 if one failed. Arguments choose parts: "kill -9".

Overhead per cell is what a device waits between the end of a cell's process and the start of the next one's: the end of
its job, Snakemake hearing of it, the next job's submission and start, and Snakemake's start inside that job.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cluster
import psutil
from grids import (
    CheckError,
    Grid,
    Watch,
    devices_taken,
    finished_folders,
    jobs,
    manifests,
    names_of,
    processes,
    squeue,
    status,
    wait_for,
)

GRID = ("--gpus", "2", "--cores", "2")
EMPTY_S = 5.0  # until the queue is empty and no process is left
OVERHEAD_S = 10.0
CELL_S, GRID_S = 180.0, 900.0  # on a busy machine
PLUGIN = "snakemake-executor-plugin-cluster-generic"


class Report:
    """Checks and what was measured."""

    def __init__(self):
        self.checks: dict[str, bool] = {}
        self.measured: dict[str, Any] = {}

    @property
    def failed(self) -> list[str]:
        return [what for what, is_so in self.checks.items() if not is_so]

    def check(self, what: str, is_so: object, found: object = "") -> None:
        self.checks[what] = bool(is_so)
        print(f"{'ok' if is_so else 'FAILED'}: {what}{f' ({found})' if found != '' else ''}", flush=True)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part that ends at what it cannot go on after; the next one begins all the same."""
        began = time.monotonic()
        try:
            yield
        except (CheckError, subprocess.SubprocessError) as error:
            self.check(name, False, error)
        self.measured[f"{name}_s"] = round(time.monotonic() - began, 1)


def whole_grid(report: Report, results: Path) -> None:
    """From a full cluster to the figures."""
    with Watch(results) as watch:
        with devices_taken(2):
            grid = Grid(results, *GRID)
            wait_for("two jobs queued", lambda: len(jobs("PENDING")) == 2, CELL_S, grid)
            queued = _by_state(results, "queued")
            report.check("status shows queued cells with their jobs", set(queued) == set(jobs("PENDING")), queued)
        states: list[dict[str, Any]] = []

        def is_running() -> bool:
            states.append(_by_state(results, "running"))
            return len(states[-1]) == 2 and set(states[-1]) == set(jobs("RUNNING"))

        wait_for("status shows two running cells with their jobs", is_running, CELL_S, grid)
        report.check("status shows running cells with job and host", all(states[-1].values()), states[-1])
        code = grid.ends(GRID_S)
    done = status(results)
    report.check("the grid is green", code == 0, grid.last_words())
    report.check("every cell is complete", done["done"] == len(done["cells"]) > 0, f"{done['done']} cells")
    report.check("the figures are drawn", (results / "smoke" / "index.html").is_file())
    devices = {kernel.device for kernel in watch.of("kernel")}
    report.check("kernels saw devices 0 and 1, one each", devices == {"0", "1"}, sorted(map(str, devices)))
    _overhead(report, watch)


def _by_state(results: Path, state: str) -> dict[str, str | None]:
    """Host by job of the cells in this state; cells that wait without a job of their own yet are left out."""
    found = [cell for cell in status(results)["cells"] if cell["state"] == state and cell["job"]]
    return {cell["job"]: cell["host"] for cell in found}


def _overhead(report: Report, watch: Watch) -> None:
    cells = watch.of("cell")
    waits = []
    for device in ("0", "1"):
        waits += [after.begin - before.end for before, after in pairwise(c for c in cells if c.device == device)]
    whole = {number: (_time(start), _time(end)) for number, start, end in squeue("%i|%S|%e", "--states=all")}
    inside = [whole[cell.job][1] - whole[cell.job][0] - (cell.end - cell.begin) for cell in cells]
    report.measured |= {
        "waits_s": [round(wait, 1) for wait in waits],
        "inside_jobs_s": [round(seconds, 1) for seconds in inside],
        "cell_processes_s": [round(cell.end - cell.begin, 1) for cell in cells],
        "load": round(os.getloadavg()[1], 1),
    }
    mean = statistics.mean(waits)
    found = f"{mean:.1f} s, of it {statistics.mean(inside):.1f} s inside its job; load {report.measured['load']}"
    report.check(f"overhead per cell below {OVERHEAD_S:.0f} s", mean < OVERHEAD_S, found)


def _time(written: str) -> float:
    return time.mktime(time.strptime(written, "%Y-%m-%dT%H:%M:%S"))


def stopped_grid(report: Report, results: Path, number: signal.Signals) -> None:
    """One cell runs, one waits; a signal has to end both."""
    with devices_taken(1):
        grid = Grid(results, *GRID)
        _wait_for_one_of_each(grid, results)
        if number == signal.SIGINT:  # Ctrl-C reaches the whole group in the terminal
            os.killpg(grid.process.pid, number)
        else:
            grid.process.send_signal(number)
        began = time.monotonic()
        with contextlib.suppress(CheckError):
            wait_for("empty queue", lambda: not jobs(), EMPTY_S + 10)
        empty = time.monotonic() - began
        report.check(f"{number.name} empties the queue within {EMPTY_S:.0f} s", empty < EMPTY_S, f"{empty:.1f} s")
        with contextlib.suppress(CheckError):
            wait_for("no process", lambda: not processes(results), EMPTY_S + 10)
        ended = time.monotonic() - began
        found = names_of(processes(results)) or f"{ended:.1f} s"
        report.check(f"{number.name} leaves no process after {EMPTY_S:.0f} s", ended < EMPTY_S, found)
        code = grid.ends(30)
        report.check(f"{number.name} is its exit code", code in (128 + number, -number), code)
        grid.kill()


def killed_grid(report: Report, results: Path) -> None:
    """kill -9 of the controller while one cell is done, one runs and one waits; a second grid makes the rest."""
    with devices_taken(1):
        grid = Grid(results, *GRID)
        wait_for("a finished cell", lambda: manifests(results), GRID_S, grid)
        finished = {file: file.stat() for folder in finished_folders(results) for file in folder.iterdir()}
        _wait_for_one_of_each(grid, results)
        running, waiting = jobs("RUNNING"), jobs("PENDING")
        # so that it waits still when the second grid comes, as on a full cluster
        subprocess.run(["scontrol", "hold", *waiting], check=True)
        os.kill(grid.process.pid, signal.SIGKILL)
        grid.process.wait()
        time.sleep(2)
        report.check("the killed grid's running job goes on", set(running) <= set(jobs()), running)
        second = Grid(results, *GRID)
        wait_for("jobs of the second grid", lambda: set(jobs()) - {*running, *waiting}, CELL_S, second)
        report.check("its waiting jobs are cancelled", not set(waiting) & set(jobs()), waiting)
    code = second.ends(GRID_S)
    report.check("the second grid is green", code == 0, second.last_words())
    done = manifests(results)
    runs = {cell: [run["job"] for run in manifest["runs"]] for cell, manifest in done.items()}
    report.check("every cell ran once", all(len(r) == 1 for r in runs.values()) and len(runs) == 5, runs)
    taken = [run[0] for run in runs.values()]
    report.check("the cell that ran on was waited for", set(running) <= set(taken), running)
    changed = [path.name for path, before in finished.items() if _is_other(path, before)]
    report.check("finished cells stay as they are", finished and not changed, changed or f"{len(finished)} files")


def without_gpus(report: Report, results: Path) -> None:
    """A cluster without GPUs, whose controller is killed and comes back while a cell runs."""
    refused = Grid(results, *GRID)
    code = refused.ends(60)
    report.check("GPUs on a cluster without any: refused in a line", code not in (0, None), refused.last_words())
    grid = Grid(results, "--gpus", "0", "--cores", "2", "--only", "tiny-r1-llama/chain-12/full-none")
    wait_for("a running job", lambda: jobs("RUNNING"), CELL_S, grid)
    home = cluster.folder()
    os.kill(cluster.pid(home, "slurmctld"), signal.SIGKILL)
    time.sleep(8)  # Snakemake asks for its job meanwhile, and gets no answer
    cluster.start_controller(home)
    code = grid.ends(GRID_S)
    done = manifests(results)
    report.check("a cluster without GPUs works, its slurmctld killed meanwhile", code == 0, grid.last_words())
    report.check("its cell ran once", [len(manifest["runs"]) for manifest in done.values()] == [1])


def _wait_for_one_of_each(grid: Grid, results: Path) -> None:
    """One cell has its kernel and another waits in the queue."""

    def is_so() -> bool:
        has_kernel = any("ipykernel" in name for name in names_of(processes(results)))
        return has_kernel and len(jobs("RUNNING")) == 1 and len(jobs("PENDING")) == 1

    wait_for("a cell that runs and one that waits", is_so, CELL_S, grid)


def _is_other(path: Path, before: os.stat_result) -> bool:
    if not path.exists():
        return True
    now = path.stat()
    return (now.st_ino, now.st_mtime_ns, now.st_size) != (before.st_ino, before.st_mtime_ns, before.st_size)


def install_plugin() -> None:
    """Into the environment that runs this, where it is missing."""
    if importlib.util.find_spec(PLUGIN.replace("-", "_")) is None:
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", PLUGIN], check=True)


def main() -> int:
    # so that what was started is ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    report, home = Report(), Path(tempfile.mkdtemp(prefix="kvrepro-slurm-results-"))
    parts: list[tuple[int, str, Callable[..., None], tuple[Any, ...]]] = [
        (2, "whole grid", whole_grid, ()),
        (2, "Ctrl-C", stopped_grid, (signal.SIGINT,)),
        (2, "SIGTERM", stopped_grid, (signal.SIGTERM,)),
        (2, "kill -9", killed_grid, ()),
        (0, "no GPUs", without_gpus, ()),
    ]
    chosen = sys.argv[1:]
    if unknown := set(chosen) - {name for _, name, _, _ in parts}:
        print(f"no such part: {min(unknown)}; there are {', '.join(name for _, name, _, _ in parts)}", file=sys.stderr)
        return 2
    try:
        install_plugin()
        for gpus, name, part, more in parts:
            if chosen and name not in chosen:
                continue
            results = home / name.replace(" ", "-")
            cluster.start(gpus=gpus)
            try:
                with report.part(name):
                    part(report, results, *more)
            finally:
                for process in processes(results):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
                cluster.stop()
    except cluster.ClusterError as error:
        print(f"check.py: {error}", file=sys.stderr)
        return 1
    finally:
        if report.failed:
            print(f"results and logs: {home}", file=sys.stderr)
        else:
            shutil.rmtree(home)
    print(json.dumps({"checks": len(report.checks), "failed": report.failed, **report.measured}))
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
