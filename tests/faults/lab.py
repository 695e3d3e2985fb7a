"""One trial: a project and results of its own, grids that a fault happens to, looks meanwhile, and what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from kvrepro.runs.profiles import load_profile

from . import truth
from .engine import JOURNAL, REPLY_S, START, read_journal
from .processes import LIMIT_S, Forked, Server, Started, runs, until, words, writing_below
from .project import PROFILE, REPLIES, make_project

REPLY_TIME_S = 0.1
GRID_LIMIT_S = 180.0  # for what a loaded machine does slowly
RERUNS = 3
_STOPPED = "what was finished is kept"
# what can go wrong
LOST, TWICE, COUNTS, LEFT, CODE, WORDS, UNFINISHED = "lost", "twice", "counts", "left", "code", "words", "unfinished"


@dataclass
class Grid:
    """A grid of a trial, and the exit codes that are right for it."""

    process: Forked | Started
    cells: list[str]
    codes: Collection[int] | None = None


@dataclass
class Lab:
    """What a fault does is done through this."""

    folder: Path
    server: Server
    draw: random.Random
    wrong: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root, self.results = make_project(self.folder / "project"), self.folder / "results"
        self.more: dict[str, str] = {}  # environment
        self.flags: list[str] = []  # of every grid
        self.owed: Counter[str] = Counter()  # cells that may be made once more, for they were damaged
        self.seen: dict[str, truth.Seen] = {}
        self.grids: list[Grid] = []
        self.has_ended = False
        self._commands = 0

    @property
    def environment(self) -> dict[str, str]:
        """Of every command."""
        return {
            **os.environ,
            "KVREPRO_ROOT": str(self.root),
            "KVREPRO_RESULTS": str(self.results),
            "KVREPRO_FORKS": self.server.address,
            "OMP_NUM_THREADS": "1",
            JOURNAL: str(self.folder / "journal"),
            REPLY_S: str(REPLY_TIME_S),
            **self.more,
        }

    @property
    def place(self) -> Path:
        """The profile's folder of results."""
        return self.results / PROFILE

    def cells(self) -> list[str]:
        """Ids of the profile's cells as it is now."""
        before = os.environ.get("KVREPRO_ROOT")
        os.environ["KVREPRO_ROOT"] = str(self.root)
        try:
            return [cell.cell_id for cell in load_profile(PROFILE).cells]
        finally:
            os.environ.pop("KVREPRO_ROOT")
            if before is not None:
                os.environ["KVREPRO_ROOT"] = before

    def journal(self) -> list[dict[str, Any]]:
        """All that happened."""
        return read_journal(self.folder / "journal")

    def command(self, *arguments: str) -> Forked:
        """A command of kvrepro, started."""
        self._commands += 1
        return Forked(self.server.address, arguments, self.environment, self.folder / f"command-{self._commands}")

    def grid(self, *flags: str, own_server: bool = False) -> Grid:
        """A grid, started."""
        arguments = ["grid", PROFILE, "--cores", "2", *self.flags, *flags]
        if own_server:
            self._commands += 1
            process = Started(arguments, self.environment, self.folder / f"command-{self._commands}")
        else:
            process = self.command(*arguments, "--no-fork-server")
        self.grids.append(Grid(process, self.cells()))
        return self.grids[-1]

    def wait(self, *grids: Grid) -> None:
        """Until they have ended, with a look now and then."""
        for grid in grids or self.grids:
            began, next_look = time.monotonic(), time.monotonic() + self.draw.uniform(0.5, 4)
            while grid.process.poll() is None:
                if time.monotonic() > next_look:
                    self.look()
                    next_look = time.monotonic() + 4
                if time.monotonic() > began + GRID_LIMIT_S:
                    self.say(CODE, f"a grid did not end in {GRID_LIMIT_S:.0f} s")
                    grid.process.send_signal(signal.SIGKILL)
                time.sleep(0.02)

    def stop(self, grid: Grid, name: str) -> None:
        """Send a grid a signal, if it still runs, and wait until it has ended."""
        number = getattr(signal, name)
        if grid.process.poll() is None:
            grid.process.send_signal(number)
            # it may have been about to end
            grid.codes = (128 + number, 0)
        until(lambda: grid.process.poll() is not None, 2 * LIMIT_S)
        if grid.process.poll() not in (0, 1) and name != "SIGKILL" and _STOPPED not in grid.process.err.read_text():
            self.say(WORDS, f"{name}: {_last(grid.process.err)}")
        self.gone()

    def part_done(self) -> None:
        """Some cells are finished, some are begun, and nothing runs."""
        grid = self.grid()
        self.until_finished(2, grid)
        self.stop(grid, self.draw.choice(["SIGTERM", "SIGKILL"]))
        self.keep()

    def ended(self, process: Forked) -> int | None:
        """Its exit code once it has ended, which it does soon; what it said is judged."""
        until(lambda: process.poll() is not None, GRID_LIMIT_S)
        self._judge_words(process)
        return process.poll()

    def moment(self, *grids: Grid, latest: float = 0.9) -> None:
        """Wait until a random share of what there is to do is done, or the grids have ended."""
        events = sum(1 for _ in self.journal()) + int(
            self.draw.uniform(0, latest) * (2 + 2 * REPLIES) * len(self.left_over())
        )
        pause = self.draw.uniform(0, 0.3)
        grids = grids or tuple(self.grids)
        until(lambda: len(self.journal()) >= events or not any(g.process.poll() is None for g in grids), GRID_LIMIT_S)
        time.sleep(pause)

    def until_finished(self, count: int, grid: Grid) -> None:
        """Wait until so many cells are finished, or the grid has ended."""
        until(lambda: len(self.finished()) >= count or grid.process.poll() is not None, GRID_LIMIT_S)

    def until_running(self, grid: Grid) -> None:
        """Wait until a cell that is not finished runs, or the grid has ended."""
        until(lambda: self.kernels() or grid.process.poll() is not None, GRID_LIMIT_S)

    def finished(self) -> dict[str, truth.Seen]:
        """The finished cells of the profile."""
        return truth.finished(self.place, self.cells())

    def left_over(self) -> list[str]:
        """The other ones."""
        return [cell for cell in self.cells() if cell not in self.finished()]

    def kernels(self) -> dict[int, str]:
        """Live kernels that have begun a cell which is not finished: cell by pid."""
        done = self.finished()
        begun = {row["pid"]: row["cell"] for row in self.journal() if row["event"] == START}
        return {pid: cell for pid, cell in begun.items() if cell not in done and _lives(pid)}

    def processes(self) -> list[psutil.Process]:
        """Every live process of this trial."""
        found = {process.pid: process for process in [*writing_below(self.results), *self.server.forks()]}
        return list(found.values())

    def say(self, kind: str, text: str) -> None:
        """Note what went wrong."""
        self.wrong.append((kind, text))

    def damaged(self, *cells: str) -> None:
        """These cells' results are no longer what they were, by the fault's own hand: each may be made once more."""
        for cell in cells:
            self.owed[cell] += 1
            self.seen.pop(cell, None)

    def keep(self) -> None:
        """Finished cells stay what they are: compare with what was seen before, and see what is there now."""
        now = self.finished()
        for cell, state in list(self.seen.items()):
            if truth.stat_of(self.place / cell) != state:
                self.say(LOST, f"{cell} was finished and is {'another one' if cell in now else 'gone'}")
                del self.seen[cell]
        self.seen.update({cell: state for cell, state in now.items() if cell not in self.seen})

    def status(self) -> dict[str, Any] | None:
        """What `kvrepro status` says; None where it fails, which is noted."""
        process = self.command("status", PROFILE, "--json")
        if code := self.ended(process):
            self.say(CODE, f"status: exit code {code}: {_last(process.err)}")
            return None
        return json.loads(process.out.read_text().splitlines()[-1])

    def look(self) -> None:
        """Compare `status` with what is so: what was the same before and after it must be what it says."""
        self.keep()
        cells, before, running = set(self.cells()), self.finished(), set(self.kernels().values())
        maybe_before = self.begun()
        found = self.status()
        if found is None:
            return
        after, still, maybe = self.finished(), set(self.kernels().values()), maybe_before | self.begun()
        states = {cell["cell_id"]: cell["state"] for cell in found["cells"]}
        for cell in cells & set(self.cells()):
            state = states.get(cell, "absent")
            if (state == "done") != (cell in after) and (cell in before) == (cell in after):
                self.say(COUNTS, f"status says {state} of {cell}, which is {'' if cell in after else 'not '}finished")
            elif cell in running & still and cell not in after and state != "running":
                self.say(COUNTS, f"status says {state} of {cell}, which runs")
            elif state == "running" and cell not in maybe:
                self.say(COUNTS, f"status says running of {cell}, which has no process")
        counted = Counter(states.values())
        wrong = {s: found[s] for s in ("done", "running", "failed", "left", "queued") if found.get(s, 0) != counted[s]}
        if wrong:
            self.say(COUNTS, f"status counts {wrong}, its cells {dict(counted)}")

    def begun(self) -> set[str]:
        """Cells that some live process was started for."""
        lines = [words(process) for process in self.processes()]
        named = {cell for cell in self.cells() for line in lines if f"--cell {cell}" in line}
        return named | set(self.kernels().values())

    def gone(self) -> None:
        """After a grid has ended nothing of it may be left, but what a live one has."""
        if any(grid.process.poll() is None for grid in self.grids):
            return
        if not until(lambda: not self.processes(), LIMIT_S):
            left = [words(process) for process in self.processes()]
            self.say(LEFT, f"{len(left)} processes, {left[:3]}")
            for process in self.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def judge(self, grid: Grid) -> None:
        """What an ended grid returned and said."""
        code, missing = grid.process.poll(), [cell for cell in grid.cells if cell not in self.finished()]
        self._judge_words(grid.process)
        if grid.codes is not None and code not in grid.codes:
            self.say(CODE, f"exit code {code}, expected {sorted(grid.codes)}: {_last(grid.process.err)}")
        if code == 0 and missing and grid is self.grids[-1]:
            self.say(UNFINISHED, f"exit code 0, but {len(missing)} cells are not finished, {missing[0]} first")
        lines = grid.process.err.read_text(errors="replace").splitlines()
        for cell, count in Counter(line.split(": ")[1] for line in lines if line.startswith("failed: ")).items():
            if count > 1:
                self.say(WORDS, f"{count} lines on the failed {cell}")

    def _judge_words(self, process: Forked | Started) -> None:
        for file in (process.out, process.err):
            if "Traceback" in (text := file.read_text(errors="replace")):
                self.say(WORDS, f"traceback in {file.name}: {text.strip().splitlines()[-1]}")

    def end(self) -> None:
        """Run the grid again until it is done, then compare everything; a fault may do so itself."""
        self.has_ended = True
        self.wait()
        self.gone()
        for grid in self.grids:
            self.judge(grid)
        self.look()
        for _ in range(RERUNS):
            last = self.grid()
            self.wait(last)
            self.gone()
            self.judge(last)
            if last.process.poll() == 0:
                break
            self.say(CODE, f"run again: exit code {last.process.poll()}: {_last(last.process.err)}")
        self.look()
        if left := self.left_over():
            self.say(UNFINISHED, f"{len(left)} cells at the end, {left[0]} first")
        journal = self.journal()
        for text in truth.made_twice(journal, self.owed):
            self.say(TWICE, text)
        for text in truth.at_once(journal, "device") + ([] if self.shards else truth.at_once(journal, "cell")):
            self.say(TWICE, text)
        if never := truth.never_made(journal, self.cells()):
            self.say(UNFINISHED, f"nobody made {never}")

    @property
    def shards(self) -> bool:
        """Are cells made in parts, by several processes at once?"""
        return "--shards" in self.flags


def _lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return runs(psutil.Process(pid))
    return False


def _last(file: Path) -> str:
    lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-300:] or "it said nothing"


@contextlib.contextmanager
def laboratory(folder: Path, server: Server, draw: random.Random) -> Iterator[Lab]:
    """A trial's place; whatever still runs is killed afterwards, and the folder is removed."""
    folder.mkdir(parents=True)
    lab = Lab(folder, server, draw)
    try:
        yield lab
    finally:
        for process in lab.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: not lab.processes(), LIMIT_S)
        if not lab.wrong:
            shutil.rmtree(folder, ignore_errors=True)
