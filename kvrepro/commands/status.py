"""`kvrepro status`: what of a profile is done, running, queued, failed or left, who runs it and how long yet."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ..bars import duration
from ..grids.executors import queued_jobs
from ..grids.folder import GridFolder
from ..grids.progress import STATES, CellProgress, Estimate, LiveGrid, estimate, other_cells, progress, side_by_side
from ..runs.profiles import load_profile
from ..runs.throughput import Panel
from .printing import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile."""
    parser.add_argument("profile")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the counts, the time left as far as finished cells tell it, and a line per cell and panel."""
    profile = load_profile(args.profile)
    grids = LiveGrid.all_of(profile.name)
    # a scheduler is asked only where a grid handed it something
    is_elsewhere = any(grid.read_plan().get("executor") for grid in GridFolder.all_of(profile.name))
    cells = progress(profile, queued_jobs(profile.name) if is_elsewhere else [], grids)
    gone = frozenset().union(*(grid.cells for grid in grids)) - {cell.cell_id for cell in profile.cells}
    expected = estimate(cells, side_by_side(cells, grids))
    counts = {state: sum(cell.state == state for cell in cells) for state in STATES}
    panels = [{"panel": p.name, "state": _panel_state(p)} for p in Panel.all_of(profile)]
    others = other_cells(profile)
    print(f"{profile.name}: {len(cells)} cells, {', '.join(f'{n} {state}' for state, n in counts.items())}")
    if counts["done"] < len(cells):
        print(_time_left(expected))
    _print_cells(cells)
    print_table({"throughput": p["state"], "panel": p["panel"]} for p in panels)
    for cell in cells:
        if cell.damage:
            print(f"damaged: {cell.config.cell_id}: {cell.damage}")
    if gone:
        print(f"{len(gone)} cells of a grid that runs are no cells of the profile any more, {min(gone)} first")
    if others:
        print(
            f"{others} cells of other versions or of an edited profile lie beside: they stay as they are, not counted"
        )
    return {
        "profile": profile.name,
        **counts,
        "damaged": sum(cell.damage is not None for cell in cells),
        "others": others,
        "remaining_s": expected.seconds,
        "estimate": {name: value for name, value in asdict(expected).items() if name != "seconds"},
        "cells": [_row(cell) for cell in cells],
        "panels": panels,
    }


def _time_left(expected: Estimate) -> str:
    finished = f"from {expected.from_cells} finished cell{'s' if expected.from_cells != 1 else ''}"
    if expected.seconds is None:
        model = " of these models" if expected.from_cells else ""
        return f"how long the rest takes is not known: no finished cell{model} tells"
    untold = f"; without {expected.untold} cells, of whose models none is finished" if expected.untold else ""
    return f"about {duration(expected.seconds)} to go, {expected.side_by_side} side by side, {finished}{untold}"


def _print_cells(cells: Sequence[CellProgress]) -> None:
    """A line per cell, and one more for each of its parts that run."""
    is_anyone = any(cell.runners or cell.job for cell in cells)
    rows = []
    for cell in cells:
        first, *more = cell.runners or (None,)
        for runner in (first, *more):
            row = {
                "state": cell.state,
                "cell": cell.config.cell_id + (f" {runner.shard}" if runner and runner.shard else ""),
                "replies": f"{_known(cell.samples)}/{cell.asked}",
                "time": duration(cell.wall_s),
            }
            if is_anyone:
                row["host"] = _known(runner and runner.host)
                row["pid"] = _known(runner and runner.pid)
                row["job"] = _known(runner.job if runner else cell.job)
            rows.append(row)
    print_table(rows)


def _row(cell: CellProgress) -> dict[str, Any]:
    runner = cell.runners[0] if cell.runners else None
    return {
        "cell_id": cell.config.cell_id,
        "state": cell.state,
        "samples": cell.samples,
        "asked": cell.asked,
        "wall_s": cell.wall_s,
        "host": runner and runner.host,
        "pid": runner and runner.pid,
        "job": runner.job if runner else cell.job,
        "since": runner and runner.since,
        "shards": [asdict(runner) for runner in cell.runners if runner.shard],
        "damage": cell.damage,
    }


def _known(value: object) -> str:
    return "-" if value is None else str(value)


def _panel_state(panel: Panel) -> str:
    """The verdict of a panel whose throughput is measured, `waits` for its cells, or `left`."""
    return panel.read()["verdict"] if panel.is_measured else "waits" if panel.lacks else "left"
