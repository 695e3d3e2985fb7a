"""Where one trial happens: a project and results of its own, its processes, and what went wrong."""

from __future__ import annotations

import contextlib
import os
import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from kvrepro.runs.profiles import load_profile

from . import truth
from .engine import JOURNAL, REPLY_S, START, read_journal
from .processes import Forked, Server, Started, runs, words, writing_below
from .project import BUDGETS, METHODS, PROFILE, make_project, profile_file, write_profile

REPLY_TIME_S = 0.1


@dataclass
class Grid:
    """A grid of a trial, and the exit codes that are right for it."""

    process: Forked | Started
    cells: list[str]
    codes: Collection[int] | None = None
    is_judged: bool = False


@dataclass
class Place:
    """What there is; `wrong` lists kind and words of whatever is not as it should be."""

    folder: Path
    server: Server
    draw: random.Random
    methods: Sequence[str] = METHODS
    wrong: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root, self.results = make_project(self.folder / "project"), self.folder / "results"
        self.write_profile()
        self.more: dict[str, str] = {}  # environment
        self.flags: list[str] = []  # of every grid
        self.owed: Counter[str] = Counter()  # cells that may be made once more, for they were damaged
        self.seen: dict[str, truth.Seen] = {}
        self.grids: list[Grid] = []
        self.has_ended = False
        self._commands, self._cells = 0, (0, list[str]())

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
        written = profile_file(self.root).stat().st_mtime_ns
        if self._cells[0] != written:
            with mock.patch.dict(os.environ, {"KVREPRO_ROOT": str(self.root)}):
                self._cells = written, [cell.cell_id for cell in load_profile(PROFILE).cells]
        return self._cells[1]

    def write_profile(self, budgets: Sequence[int] = BUDGETS) -> None:
        """The profile with these budgets."""
        write_profile(self.root, budgets, self.methods)

    def journal(self) -> list[dict[str, Any]]:
        """All that happened."""
        return read_journal(self.folder / "journal")

    def command(self, *arguments: str) -> Forked:
        """A command of kvrepro, started."""
        self._commands += 1
        return Forked(self.server.address, arguments, self.environment, self.folder / f"command-{self._commands}")

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

    def begun(self) -> set[str]:
        """Cells that some live process was started for."""
        lines = [words(process) for process in self.processes()]
        named = {cell for cell in self.cells() for line in lines if f"--cell {cell}" in line}
        return named | set(self.kernels().values())

    def processes(self) -> list[psutil.Process]:
        """Every live process of this trial."""
        found = {process.pid: process for process in [*writing_below(self.results), *self.server.forks()]}
        return list(found.values())

    @property
    def shards(self) -> bool:
        """Are cells made in parts, by several processes at once?"""
        return "--shards" in self.flags

    def say(self, kind: str, text: str) -> None:
        """Note what went wrong."""
        self.wrong.append((kind, text))

    def damaged(self, *cells: str) -> None:
        """These cells' results are no longer what they were, by the fault's own hand: each may be made once more."""
        for cell in cells:
            self.owed[cell] += 1
            self.seen.pop(cell, None)


def _lives(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return runs(process := psutil.Process(pid)) and process.status() != psutil.STATUS_STOPPED
    return False
