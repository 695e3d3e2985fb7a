"""Faults that end processes: of a grid, of its engine, of a cell, of a kernel; and grids beside each other."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from functools import partial

import psutil

from kvrepro.claims import LEASE_S

from .lab import Lab
from .processes import until, words, writing_below

FAILED_OR_NOT = (0, 1)  # a cell that was hurt may be a failed one, or may have been made again


def stop_grid(lab: Lab, name: str, own_server: bool = False) -> None:
    """Stop a grid by a signal at some moment."""
    grid = lab.grid(own_server=own_server)
    lab.moment(grid)
    lab.stop(grid, name)


def kill_engine(lab: Lab) -> None:
    """Kill Snakemake below a grid; that grid says so, and is not left waiting."""
    grid = lab.grid()
    lab.moment(grid)
    _kill([process for process in writing_below(lab.results) if "snakemake" in words(process)][:1])
    grid.codes = FAILED_OR_NOT


def kill_cell(lab: Lab) -> None:
    """Kill what stands for a cell in the grid, or the cell's own process."""
    grid = lab.grid()
    lab.moment(grid, latest=0.6)
    lab.until_running(grid)
    stand_ins = [process for process in writing_below(lab.results) if " --cell " in words(process)]
    forks = [process for process in lab.server.forks() if any("ipykernel" in line for line in _below(process))]
    _kill([lab.draw.choice(found)] if (found := stand_ins + forks) else [])
    grid.codes = FAILED_OR_NOT


def kill_kernel(lab: Lab) -> None:
    """Kill the kernel of a running cell."""
    grid = lab.grid()
    lab.moment(grid, latest=0.6)
    lab.until_running(grid)
    if pids := sorted(lab.kernels()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(lab.draw.choice(pids), signal.SIGKILL)
    grid.codes = FAILED_OR_NOT


def kill_fork_server(lab: Lab) -> None:
    """Kill the fork server that a grid started for itself: what runs goes on, what comes starts by itself."""
    grid = lab.grid(own_server=True)
    until(lambda: _own_servers(lab) or grid.process.poll() is not None)
    lab.moment(grid, latest=0.5)
    _kill(_own_servers(lab)[:1])
    grid.codes = (0,)


def two_at_once(lab: Lab) -> None:
    """Two grids from the start: both are right once all is done."""
    for _ in range(2):
        lab.grid().codes = (0,)
    lab.wait()


def second_later(lab: Lab, name: str | None) -> None:
    """A second grid beside the first one, which is stopped by a signal, if one is named."""
    first = lab.grid()
    lab.moment(first, latest=0.6)
    second = lab.grid()
    first.codes = second.codes = (0,)
    if name is not None:
        lab.moment(first, second)
        lab.stop(first, name)
    lab.wait()


def suspend_cell(lab: Lab) -> None:
    """A cell stands still for longer than a lease: its process is there, so another grid waits until it goes on."""
    first = lab.grid()
    lab.until_running(first)
    still = [*lab.server.forks(), *(process for process in writing_below(lab.results) if "stand_in" in words(process))]
    still = [process for process in still if process.pid != first.process.pid]
    _each(still, "suspend")
    second = lab.grid()
    first.codes = second.codes = (0,)
    time.sleep(LEASE_S + 5)
    _each(still, "resume")
    lab.wait()


def gpus(lab: Lab) -> None:
    """Two devices: each cell has one of them and no two cells have the same one at once; the grid is killed."""
    lab.more["KVREPRO_GPUS"] = "0,1"
    lab.flags += ["--gpus", "2"]
    _stopped_at_some_time(lab)
    lab.end()
    if strange := {row["device"] for row in lab.journal()} - {"0", "1"}:
        lab.say("devices", f"cells saw {strange}, given were 0 and 1")


def _stopped_at_some_time(lab: Lab) -> None:
    stop_grid(lab, lab.draw.choice(["SIGKILL", "SIGTERM", "SIGINT"]))


def _below(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [words(child) for child in process.children()]
    return []


def _own_servers(lab: Lab) -> list[psutil.Process]:
    servers = [process for process in writing_below(lab.results) if "kvrepro.runs.fork_server" in words(process)]
    pids = {process.pid for process in servers}
    return [process for process in servers if process.ppid() not in pids]


def _kill(processes: list[psutil.Process]) -> None:
    _each(processes, "kill")


def _each(processes: list[psutil.Process], action: str) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            getattr(process, action)()


def _in_parts(lab: Lab, fault: Callable[[Lab], None]) -> None:
    """Cells in two parts each."""
    lab.flags += ["--shards", "2"]
    fault(lab)


def _killed_twice(lab: Lab) -> None:
    """A grid killed at two moments, one after the other."""
    for _ in range(2):
        stop_grid(lab, "SIGKILL")


KINDS = {
    **{f"grid {name}": partial(stop_grid, name=name) for name in ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")},
    "whole grid SIGTERM": partial(stop_grid, name="SIGTERM", own_server=True),
    "grid killed twice": _killed_twice,
    "engine killed": kill_engine,
    "cell killed": kill_cell,
    "kernel killed": kill_kernel,
    "fork server killed": kill_fork_server,
    "two grids at once": two_at_once,
    "second grid later": partial(second_later, name=None),
    **{f"second grid later, first {name}": partial(second_later, name=name) for name in ("SIGKILL", "SIGTERM")},
    "two devices": gpus,
    "two parts": partial(_in_parts, fault=_stopped_at_some_time),
    "two parts, one killed": partial(_in_parts, fault=kill_cell),
    "two parts, second grid": partial(_in_parts, fault=partial(second_later, name="SIGKILL")),
    "two parts, two devices": partial(_in_parts, fault=gpus),
    "cell suspended": suspend_cell,
}
