"""What is checked of a trial: finished cells stay, `status` tells what is so, nothing is left, no tracebacks."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

import psutil

from . import truth
from .place import Grid, Place
from .processes import GRID_LIMIT_S, LIMIT_S, Forked, Started, until, words
from .project import PROFILE

# what can go wrong
LOST, TWICE, COUNTS, LEFT, CODE, WORDS, UNFINISHED = "lost", "twice", "counts", "left", "code", "words", "unfinished"


class Checks(Place):
    """Looks at a trial, meanwhile and afterwards."""

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
            self.say(CODE, f"status: exit code {code}: {last_words(process.err)}")
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

    def expect(self, codes: Collection[int], *arguments: str) -> None:
        """Run a command to its end."""
        process = self.command(*arguments)
        if (code := self.ended(process)) not in codes:
            self.say(CODE, f"{arguments}: exit code {code}: {last_words(process.err)}")

    def ended(self, process: Forked) -> int | None:
        """Its exit code once it has ended, which it does soon; what it said is judged."""
        until(lambda: process.poll() is not None, GRID_LIMIT_S)
        self._judge_words(process)
        return process.poll()

    def judge(self, grid: Grid) -> None:
        """What a grid returned and said, once it has ended."""
        if grid.is_judged:
            return
        grid.is_judged = True
        # of the profile as it was when the grid began
        done = truth.finished(self.place, grid.cells)
        code, missing = grid.process.poll(), [cell for cell in grid.cells if cell not in done]
        self._judge_words(grid.process)
        if grid.codes is not None and code not in grid.codes:
            self.say(CODE, f"exit code {code}, expected {sorted(grid.codes)}: {last_words(grid.process.err)}")
        if code == 0 and missing:
            self.say(UNFINISHED, f"exit code 0, but {len(missing)} cells are not finished, {missing[0]} first")
        lines = grid.process.err.read_text(errors="replace").splitlines()
        said = [line for line in lines if line.startswith(("failed: ", "not started: "))]
        # an engine that failed itself is one line for all
        for cell in missing if code == 1 and said else ():
            about = [line for line in said if cell in line.split(": ")[1]]
            if len(about) != 1 or '{"' in about[0]:
                self.say(WORDS, f"{len(about)} lines on {cell}, which is not finished: {about}")

    def _judge_words(self, process: Forked | Started) -> None:
        for file in (process.out, process.err):
            if "Traceback" in (text := file.read_text(errors="replace")):
                self.say(WORDS, f"traceback in {file.name}: {text.strip().splitlines()[-1]}")

    def judge_journal(self) -> None:
        """What was made, by whom and how often, once all is done."""
        journal = self.journal()
        for text in truth.made_twice(journal, self.owed):
            self.say(TWICE, text)
        # parts of a cell are made at once
        whole = [] if self.shards else journal
        for text in truth.at_once(journal, "device") + truth.at_once(whole, "cell"):
            self.say(TWICE, text)
        if never := truth.never_made(journal, self.cells()):
            self.say(UNFINISHED, f"nobody made {never}")


def last_words(file: Path) -> str:
    lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-300:] or "it said nothing"
