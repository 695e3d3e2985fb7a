"""What one grid runs and how: its settings, its marks, and the plan that the Snakefile reads.

Snakemake deletes the outputs of a job that fails or is begun again, so it owns no results: it makes a mark per cell and
per panel whose throughput is measured, in a folder of this grid's own, where marks are set to what is complete before
it runs.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import write_json
from ..methods.own import is_reference
from ..paths import PACKAGE, committed_summary, project_root, results_root, working_root
from ..runs.folder import MANIFEST
from ..runs.profiles import Profile, profile_file
from ..runs.throughput import Panel
from .executors import Executor
from .folder import GridFolder

if TYPE_CHECKING:
    from ..runs.scheduling import Request

_FIGURES = ("index.html", "summary.csv")


@dataclass(frozen=True)
class GridSettings:
    """How a grid runs.

    Attributes:
        cores: cells side by side; on an executor jobs at once.
        gpus: devices of this host that cells may take, or on an executor how many GPUs at once (as many Nones);
            None: GPUs are not counted.
        executor: where jobs run; None: here.
        requests: by cell what it asks for, GPUs as `given`; cells that are not here ask for GPUs alone.
        shards: by cell into how many parts it is split; cells that are not here are whole.
        measuring: by panel what measuring it asks for, as `requests`.
        more: flags for Snakemake, quoted as in a shell.
    """

    cores: int
    gpus: Sequence[str | None] | None = None
    executor: Executor | None = None
    requests: Mapping[str, Request] = field(default_factory=dict)
    shards: Mapping[str, int] = field(default_factory=dict)
    measuring: Mapping[str, Request] = field(default_factory=dict)
    more: str = ""

    def job(self, grid: GridFolder, profile: str, needs: dict[str, int], *, is_alone: bool = False) -> dict[str, Any]:
        """What Snakemake is told of a job, and in `ask` what its scheduler is."""
        ask = self.executor.asked(grid, profile, needs, is_alone=is_alone) if self.executor else ""
        return {**needs, "ask": ask}

    def asks(self, cell_id: str) -> dict[str, str | int]:
        """What a scheduler is asked for, for people to read."""
        needs = self.needs(self.requests.get(cell_id))
        return {"memory": f"{needs['mem_mb']} MB", "limit": f"{needs['runtime_min']} min", "GPUs": needs["gpus"]}

    def given(self, needed: int) -> int:
        """GPUs that a cell gets: where they are counted one at least, for they are for every cell; of none, none."""
        if self.gpus is None:
            return needed if self.executor else 0
        return max(1, needed) if self.gpus else 0

    def needs(self, request: Request | None) -> dict[str, int]:
        """A request in numbers; 0 asks for nothing. Memory and time are counted by schedulers alone."""
        known = asdict(request) if request is not None else {"gpus": self.given(0)}
        if self.executor is None:
            return {"gpus": known["gpus"], "mem_mb": 0, "runtime_min": 0}
        minutes = known.get("runtime_min") or self.executor.default("runtime") or 0
        return {"gpus": known["gpus"], "mem_mb": known.get("mem_mb", 0), "runtime_min": minutes}


def prepare(grid: GridFolder, whole: Profile, part: Profile, panels: Sequence[Panel], settings: GridSettings) -> None:
    """Set the marks and write the plan that the Snakefile reads.

    Args:
        part: whose cells are run; of the whole profile, the figures are drawn as well.
        panels: to be measured.
    """
    grid.path.mkdir(parents=True, exist_ok=True)
    set_marks(grid, whole)
    marks = [grid.mark(folder) for folder in part.folders] + [grid.mark(panel) for panel in panels]
    if part.cells == whole.cells:
        marks.append(grid.figures_mark)
    # two grids that began with the same cells would wait for each other
    others = [other for other in GridFolder.all_of(whole.name) if other != grid and other.is_alive]
    order = random.sample(range(len(whole.cells)), len(whole.cells)) if others else [0] * len(whole.cells)
    cells = {}
    for config, folder, place in zip(whole.cells, whole.folders, order, strict=True):
        # what 0.2.0 left says nothing of its runs, so only a run with the model can put it together
        is_older = (folder.partial / "completions.jsonl").is_file()
        n_parts = 1 if is_older else settings.shards.get(folder.cell_id, 1)
        needs = settings.needs(settings.requests.get(folder.cell_id))
        cells[folder.cell_id] = {
            "config": config.resolved(),
            "mark": str(grid.mark(folder)),
            "log": str(folder.log),
            "parts": [f"{i}-of-{n_parts}" for i in range(1, n_parts + 1)] if n_parts > 1 else [],
            # parts that are there are put together without a model
            "whole": settings.job(grid, whole.name, {**needs, "gpus": 0} if n_parts > 1 else needs),
            "part": settings.job(grid, whole.name, needs),
            # before any measurement, so that those come when nothing is left to run
            "priority": 1 + place,
        }
    executor = settings.executor
    write_json(
        grid.plan_file,
        {
            "profile": whole.name,
            "executor": executor.folder.name if executor else None,
            "cores": settings.cores,
            "gpus": None if settings.gpus is None else list(settings.gpus),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": sys.executable,
            "directory": str(working_root()),
            "marks": str(grid.path / "marks"),
            "targets": list(map(str, marks)),
            "cells": cells,
            "panels": {
                panel.name: {
                    "mark": str(grid.mark(panel)),
                    "log": str(panel.log),
                    "cells": [cell.cell_id for cell in panel.cells],
                    **settings.job(grid, whole.name, settings.needs(settings.measuring.get(panel.name)), is_alone=True),
                }
                for panel in Panel.all_of(whole)
            },
            "panel_threads": 1 if executor else settings.cores,
            "figures": {
                "marks": [str(grid.mark(thing)) for thing in (*whole.folders, *Panel.all_of(whole))],
                "code": _figure_code(whole),
                "log": str(results_root() / whole.name / "logs" / "summary.log"),
            },
        },
    )
    # a scheduler writes into its folder and does not make it
    (results_root() / whole.name / "logs" / ("slurm" if executor else "")).mkdir(parents=True, exist_ok=True)


def _figure_code(profile: Profile) -> list[str]:
    """What the figures are drawn with: a change of it draws them again, and runs no cell."""
    parts = [
        *(PACKAGE / "figures").glob("*.py"),
        *(path for path in (PACKAGE / "pages").rglob("*") if path.suffix in (".py", ".j2", ".css", ".js")),
        *(PACKAGE / "analysis" / f"{name}.py" for name in ("budget_findings", "comparison", "method_table", "verdict")),
        *(PACKAGE / "runs" / f"{name}.py" for name in ("summary", "throughput")),
        project_root() / "notebooks" / f"{profile.notebook}.ipynb",
        # which cells there are, for a comparison is written again, and a method's file may be what it was before
        profile_file(profile.name),
        *{cell.method.rpartition(":")[0] for cell in profile.cells if is_reference(cell.method)},
        *filter(None, [committed_summary(profile.name)]),
    ]
    return sorted(map(str, parts))


def set_marks(grid: GridFolder, profile: Profile) -> None:
    """Marks of exactly what is complete, as old as it is, so that figures older than that are drawn again.

    A panel that was too noisy has none, so a grid measures it again, once.
    """
    for folder in profile.folders:
        written = (folder.path / MANIFEST).stat().st_mtime_ns if folder.is_complete else None
        _set(grid.mark(folder), written)
    for panel in Panel.all_of(profile):
        _set(grid.mark(panel), panel.measured_ns if panel.is_settled else None)
    drawn = [results_root() / profile.name / name for name in (*_FIGURES, f"{profile.notebook}.ipynb")]
    are_there = all(path.is_file() for path in drawn)
    _set(grid.figures_mark, min(path.stat().st_mtime_ns for path in drawn) if are_there else None)


def _set(mark: Path, written_ns: int | None) -> None:
    """Make a mark of this age, or remove it."""
    if written_ns is None:
        mark.unlink(missing_ok=True)
        return
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    os.utime(mark, ns=(written_ns, written_ns))
