"""A grid as commands run it: what was asked for, checked, run through Snakemake, and told."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..claims import held
from ..errors import KvreproError
from ..grids import workflow
from ..grids.executors import Executor
from ..grids.folder import GridFolder
from ..grids.plan import GridSettings, prepare
from ..paths import gpus_environment, results_root
from ..runs.config import CellConfig
from ..runs.fork_server import fork_server
from ..runs.gpus import host_gpus
from ..runs.machines import machine
from ..runs.past_cells import past_cells
from ..runs.processes import afterwards
from ..runs.profiles import COMPARISON, Profile
from ..runs.scheduling import panel_request, shards_for
from ..runs.throughput import Panel
from .arguments import compile_once
from .printing import by_panel, print_table

if TYPE_CHECKING:
    from ..runs.forecast import CellForecast

TABLE_CELLS = 60  # of a profile whose table a terminal still shows


@dataclass(frozen=True)
class GridOptions:
    """What `kvrepro grid` can be asked for, by its options' names; docs/reference.md says what they mean."""

    cores: int | None = None
    gpus: int | None = None
    executor: str | None = None
    shards: int | None = None
    cell_hours: float | None = None
    only: Sequence[str] = ()
    dry_run: bool = False
    no_fork_server: bool = False
    snakemake: str = ""


def run_grid(whole: Profile, asked: GridOptions) -> dict[str, Any]:
    """Run every cell of a profile that is not done, then its figures; or show what would run.

    Returns what the command's JSON holds; exit code 1 if cells failed.

    Raises:
        KvreproError: nothing was started: cells lack something, or what was asked for is not there.
        RunError: Snakemake itself failed.
    """
    _check_numbers(asked)
    executor = Executor.load(asked.executor) if asked.executor else None
    part = _part(whole, asked.only)
    panels, waiting = _panels(whole, part)
    left = [c for c, folder in zip(part.cells, part.folders, strict=True) if not folder.is_complete]
    settings = _settings(asked, executor, part, left, panels)
    grid = GridFolder.new(whole.name)
    with afterwards(grid.remove), held(grid.lock, f"the grid {whole.name}"):
        if asked.dry_run:
            return _show(asked, whole, part, panels, grid, settings)
        return _run(asked, whole, part, left, panels, waiting, grid, settings)


def _check_numbers(asked: GridOptions) -> None:
    for name, least in (("cores", 1), ("gpus", 0), ("shards", 1), ("cell_hours", 0.01)):
        value = getattr(asked, name)
        if value is not None and value < least:
            raise KvreproError(f"--{name.replace('_', '-')} {value}: must be at least {least}")
    if asked.shards is not None and asked.cell_hours is not None:
        raise KvreproError("--shards splits every cell and --cell-hours only long ones: give one of them")


def _settings(
    asked: GridOptions, executor: Executor | None, part: Profile, left: list[CellConfig], panels: list[Panel]
) -> GridSettings:
    """How the grid runs; cells are planned only where it matters, for that loads torch."""
    is_idle = not left and all(panel.is_settled for panel in panels)
    gpus = None if is_idle and asked.gpus is None else _gpus(asked.gpus, executor)
    cores = asked.cores or (executor.n_jobs if executor else os.cpu_count() or 1)
    settings = GridSettings(cores, gpus, executor, more=asked.snakemake)
    shards = {} if asked.shards is None else {cell.cell_id: asked.shards for cell in left}
    if not is_idle and (executor is not None or gpus or asked.cell_hours is not None):
        from ..runs.forecast import CellForecast

        here, known = machine(None), past_cells(part)
        forecasts = {cell.cell_id: CellForecast(cell, here, known) for cell in part.cells}
        requests = {name: p.request_for(settings.given(p.request.gpus)) for name, p in forecasts.items()}
        measuring = {
            panel.name: panel_request(
                [forecasts.get(cell.cell_id) or CellForecast(cell, here, known) for cell in panel.cells],
                panel.settings,
                settings.given,
            )
            for panel in panels
        }
        if not asked.dry_run:
            _check_gpus(settings, [forecasts[cell.cell_id] for cell in left])
        if asked.cell_hours is not None:
            shards = {c.cell_id: shards_for(forecasts[c.cell_id], 3600 * asked.cell_hours) for c in left}
        settings = replace(settings, requests=requests, measuring=measuring)
    return replace(settings, shards=shards)


def _check_gpus(settings: GridSettings, forecasts: list[CellForecast]) -> None:
    """Refuse what no device can hold. How much of one is free is asked once it is held: others may have it now."""
    most = max((settings.given(forecast.request.gpus) for forecast in forecasts), default=0)
    if settings.gpus and most > len(settings.gpus):
        raise KvreproError(f"--gpus {len(settings.gpus)}: some cells need {most} GPUs each: --gpus {most}")
    if settings.executor is not None and most:
        settings.executor.check_gpus()
    too_large = [f"{f.cell_id}: {f.problem}" for f in forecasts if f.largest_batch < f.batch_rows]
    if settings.executor is None and settings.gpus and too_large:
        raise KvreproError("\n".join(["nothing was started", *too_large]))


def _gpus(asked: int | None, executor: Executor | None) -> list[str] | list[None] | None:
    """Devices that cells may take; on an executor only how many, for it knows which."""
    if executor is not None:
        return None if asked is None else [None] * asked
    there = host_gpus()
    if asked is None:
        return there or None
    if asked > len(there):
        raise KvreproError(
            f"--gpus {asked}: this machine has {len(there)} that can be used"
            + (f" ({', '.join(there)}): --gpus {len(there)}" if there else ": leave --gpus away to run on processors")
            + ", or KVREPRO_GPUS names more"
        )
    return there[:asked]


def _show(
    asked: GridOptions,
    whole: Profile,
    part: Profile,
    panels: list[Panel],
    grid: GridFolder,
    settings: GridSettings,
) -> dict[str, Any]:
    """What would run."""
    states = [folder.state for folder in part.folders]
    to_run = len(states) - states.count("done")
    to_measure = sum(not panel.is_settled for panel in panels)
    print(
        f"{part.name}: {len(states)} cells, {to_run} to run, {min(settings.cores, len(states))} side by side; "
        f"throughput of {len(panels)} panels, {to_measure} to measure, one alone; how long, and what they need: "
        f"kvrepro plan --profile {part.name}"
    )
    print_table(
        {
            "state": state,
            "cell": c.cell_id,
            "problems": c.n_problems or "all",
            "samples": c.n_samples,
            **(settings.asks(c.cell_id) if settings.executor else {}),
        }
        for state, c in zip(states, part.cells, strict=True)
    )
    prepare(grid, whole, part, panels, settings)
    code = workflow.show_plan(workflow.snakemake_command(grid, settings))
    return {"profile": whole.name, "cells": len(part.cells), "exit_code": int(code != 0)}


def _run(
    asked: GridOptions,
    whole: Profile,
    part: Profile,
    left: list[CellConfig],
    panels: list[Panel],
    waiting: list[Panel],
    grid: GridFolder,
    settings: GridSettings,
) -> dict[str, Any]:
    """The grid itself, under its lock."""
    started, began = time.monotonic(), time.time()
    workflow.clear_up(whole.name, grid, settings.executor)
    if left:
        from ..runs.preflight import check_cells

        is_here = settings.executor is None and not settings.gpus
        for folder in part.folders:
            if damage := folder.damage:
                print(f"damaged: {folder.cell_id}: {damage}: made again, this is set aside", file=sys.stderr)
        check_cells(left, "cpu" if is_here and settings.gpus is not None else None, is_here=is_here)
        if is_here:
            # before the first cells would all want it at once, inside their times
            compile_once()
    prepare(grid, whole, part, panels, settings)
    command = workflow.snakemake_command(grid, settings)
    with (
        workflow.jobs_end_here(whole.name, grid, settings),
        _forks(asked, whole.name, len(left), settings) as environment,
    ):
        code = workflow.run_snakemake(command, grid, part, environment)
    missing, unmeasured = workflow.failures(part, began), workflow.unmeasured(panels, began)
    n_cells, n_done = len(part.cells), len(part.cells) - len(missing)
    missing += unmeasured
    # noise is no failure, so these change no exit code
    for line in missing + workflow.unmeasured(waiting, began) + workflow.noisy(panels):
        print(line, file=sys.stderr)
    index = results_root() / part.name / "index.html"
    if code and missing and not any(line.startswith(workflow.FAILED) for line in missing):
        raise workflow.snakemake_error(grid)
    if n_done and (code or asked.only):
        # failed cells stop the figures' rule, and a part has none: draw what there is, the rest as missing. Where
        # only the figures failed, this says why
        from ..pages.report import write_report

        write_report(whole)
    from ..analysis.verdict import verdict
    from ..runs.summary import summarise_profile

    frame = summarise_profile(whole)
    # a comparison has a table of its own
    if len(frame) and len(whole.cells) <= TABLE_CELLS and not whole.name.startswith(COMPARISON):
        print_table(by_panel(frame))
    where = f"; open {index}" if index.is_file() else ""
    print(f"{n_done} of {n_cells} cells done{where}")
    lines = verdict(whole, frame)
    print(*lines, sep="\n")
    return {
        "profile": whole.name,
        "cells": n_cells,
        "done": n_done,
        "measured": len(panels) - len(unmeasured),
        "index": str(index),
        "verdict": lines,
        "wall_s": round(time.monotonic() - started, 1),
        "exit_code": int(bool(missing)),
    }


@contextmanager
def _forks(asked: GridOptions, profile: str, n_cells: int, settings: GridSettings) -> Iterator[dict[str, str]]:
    """Environment of the cells, with a fork server where that is worth its start.

    Not for one cell, not beside GPUs, where cells take hours, and not where they run elsewhere.
    """
    gpus = settings.gpus if settings.executor is None else None
    chosen = {} if gpus is None else gpus_environment(gpus)
    is_worth_it = settings.executor is None and not gpus and n_cells > 1
    if sys.platform != "linux" or asked.no_fork_server or not is_worth_it:
        # devices of this machine are none of a node's
        kept = {n: v for n, v in os.environ.items() if settings.executor is None or n not in gpus_environment(["0"])}
        yield {**kept, **chosen}
    else:
        with fork_server(results_root() / profile / "fork_server.log") as environment:
            yield {**environment, **chosen}


def _panels(whole: Profile, part: Profile) -> tuple[list[Panel], list[Panel]]:
    """Panels with a cell in the part: those that are complete once it has run, and those that are not."""
    in_part = {cell.cell_id for cell in part.cells}
    left = {folder.cell_id for folder in whole.folders if not folder.is_complete} - in_part
    mine = [p for p in Panel.all_of(whole) if any(cell.cell_id in in_part for cell in p.cells)]
    waiting = [p for p in mine if any(cell.cell_id in left for cell in p.cells)]
    return [p for p in mine if p not in waiting], waiting


def _part(profile: Profile, prefixes: list[str]) -> Profile:
    """The profile with only the cells that were asked for."""
    cells = tuple(c for c in profile.cells if not prefixes or c.cell_id.startswith(tuple(prefixes)))
    idle = [p for p in prefixes if not any(c.cell_id.startswith(p) for c in cells)]
    if idle:
        known = dict.fromkeys(c.cell_id.rsplit("/", 2)[0] for c in profile.cells)
        raise KvreproError(f"--only {idle[0]}: no cell of {profile.name} starts so; panels are {', '.join(known)}")
    return replace(profile, cells=cells)
