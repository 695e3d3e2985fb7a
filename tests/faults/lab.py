"""What a fault does to a trial: start grids, wait, stop them; and the end, where all must be done and counted once."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from .checks import CODE, UNFINISHED, WORDS, Checks, last_words
from .place import Grid
from .processes import GRID_LIMIT_S, LIMIT_S, Server, Started, until
from .project import PROFILE, REPLIES

RERUNS = 3
_STOPPED = "what was finished is kept"


class Lab(Checks):
    """One trial."""

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
                time.sleep(0.05)
            self.judge(grid)

    def stop(self, grid: Grid, name: str) -> None:
        """Send a grid a signal, if it still runs, and wait until it has ended."""
        number = getattr(signal, name)
        if grid.process.poll() is None:
            grid.process.send_signal(number)
            # it may have been about to end
            grid.codes = (128 + number, 0)
        until(lambda: grid.process.poll() is not None, 2 * LIMIT_S)
        if grid.process.poll() not in (0, 1) and name != "SIGKILL" and _STOPPED not in grid.process.err.read_text():
            self.say(WORDS, f"{name}: {last_words(grid.process.err)}")
        self.judge(grid)
        self.gone()

    def part_done(self, *names: str) -> None:
        """Some cells are finished, some are begun, and nothing runs: a grid was stopped by one of these signals."""
        grid = self.grid()
        self.until_finished(2, grid)
        self.stop(grid, self.draw.choice(names or ("SIGTERM", "SIGKILL")))
        self.keep()

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

    def end(self) -> None:
        """Run the grid again until it is done, then compare everything; a fault may do so itself."""
        self.has_ended = True
        self.wait()
        self.gone()
        self.look()
        for _ in range(RERUNS):
            last = self.grid()
            self.wait(last)
            self.gone()
            if last.process.poll() == 0:
                break
            self.say(CODE, f"run again: exit code {last.process.poll()}: {last_words(last.process.err)}")
        self.look()
        if left := self.left_over():
            self.say(UNFINISHED, f"{len(left)} cells at the end, {left[0]} first")
        self.judge_journal()


@contextlib.contextmanager
def laboratory(folder: Path, server: Server, draw: random.Random, **given: Any) -> Iterator[Lab]:
    """A trial's place; whatever still runs is killed afterwards, and the folder is removed."""
    folder.mkdir(parents=True)
    lab = Lab(folder, server, draw, **given)
    try:
        yield lab
    finally:
        for process in lab.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: not lab.processes(), LIMIT_S)
        if not lab.wrong:
            shutil.rmtree(folder, ignore_errors=True)
