"""`kvrepro plan`: memory, time and disk of every cell of a profile before anything is started."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from ..bars import duration
from ..errors import KvreproError
from ..runs.machines import GPUS, machine
from ..runs.past_cells import past_cells
from ..runs.profiles import load_profile
from ..runs.scheduling import CELL, PANELS, Box
from .printing import print_table, size, size_unit, time_unit

if TYPE_CHECKING:
    from ..runs.forecast import CellForecast

WIDTH = 120  # characters of a line of prose
# what stands in for a measurement
_ASSUMED = {
    "bound": (
        "weights without the embedding table and the cache, read once a step at the data sheet's bandwidth. No run is "
        "faster; real ones are slower by a factor that is not known until the first cell is measured."
    ),
    "limit": "no cell of that model and benchmark is measured, so every reply is counted at max_new_tokens.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, the GPU, and tables of measured cells."""
    parser.add_argument("--profile", required=True)
    parser.add_argument("--gpu", help=f"plan for this GPU: {', '.join(GPUS)} (default: this machine)")
    gpus = "one machine with so many of them, a cell on each (default: those of this machine)"
    parser.add_argument("--gpus", type=int, metavar="N", help=gpus)
    measured = "a summary.csv of finished cells, measured on the GPU that is planned for"
    parser.add_argument("--measured", type=Path, action="append", default=[], help=measured)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the totals, a line per model and per cell, and what does not fit and why."""
    from ..runs.forecast import CellForecast

    for path in args.measured:
        if not path.is_file():
            raise KvreproError(f"--measured {path}: no such file; give the summary.csv of a profile")
    profile, on = load_profile(args.profile), machine(args.gpu, args.gpus)
    known = past_cells(profile, args.measured)
    plans = [CellForecast(config, on, known) for config in profile.cells]
    totals = {**_totals(plans), "throughput_hours": None}
    measuring = 0.0
    if totals["timed_cells"] and profile.throughput is not None:
        measuring = sum(p.throughput_seconds(profile.throughput) or 0 for p in plans)
        totals["throughput_hours"] = round(measuring / 3600, 3)
    box = Box.of(plans, on.gpus, measuring) if on.gpus else None
    print(f"{profile.name}: {len(plans)} cells, {_fits(totals)} on {on.name} ({size(on.memory_bytes)})")
    print(f"time: {_time(plans, totals, measuring)}")
    if box is not None and box.gpus > 1:
        print(_on_box(box, profile.name, on.name))
    print(f"disk: {size(totals['weights_bytes'])} for weights, {size(totals['results_bytes'])} for results")
    _print_models(plans)
    _print_cells(plans)
    for p in plans:
        if p.problem:
            print(f"does not fit: {p.cell_id}: {p.problem}")
    about = {"profile": profile.name, "machine": on.name, **totals}
    about["box"] = None if box is None else {"seconds": box.seconds, **asdict(box)}
    return {**about, "cells": [p.row() for p in plans]}


def _fits(totals: dict[str, Any]) -> str:
    return "all fit" if totals["fits"] == totals["n_cells"] else f"{totals['fits']} of them fit"


def _time(plans: list[CellForecast], totals: dict[str, Any], measuring: float) -> str:
    """How long it all takes, and what that number is."""
    if not (timed := totals["timed_cells"]):
        return "not known, no cell like these is measured; `kvrepro status` tells it once one is finished"
    of = "" if timed == len(plans) else f" for {timed} of the cells"
    after = f"; throughput after that, one panel at a time: {duration(measuring)}" if measuring else ""
    return f"{duration(sum(p.seconds or 0 for p in plans))}{of} ({', '.join(totals['time_from'])}){after}"


def _on_box(box: Box, profile: str, gpu: str) -> str:
    """Wall time on several GPUs, and what limits it."""
    panels = f", {duration(box.panels_s)} of them to measure throughput alone" if box.panels_s else ""
    speedup = box.one_gpu_s / box.seconds
    line = f"{box.gpus} x {gpu}: {duration(box.seconds)}{panels}, {speedup:.1f} times as fast as one; limited by "
    if box.limited_by == CELL:
        hours = max(0.01, math.ceil(box.even_s / 36) / 100)
        line += (
            f"its longest cell, {box.longest_cell} ({duration(box.longest_s)}): more GPUs do not help, parts of it do: "
            f"`kvrepro grid {profile} --cell-hours {hours:g}` comes to {duration(box.split_s + box.panels_s)}"
        )
    else:
        line += "throughput, beside which nothing runs" if box.limited_by == PANELS else "the number of GPUs"
    return line


def _print_models(plans: list[CellForecast]) -> None:
    """A line per model: its weights, rows that its cells decode together, and rows that would fit."""
    for model in dict.fromkeys(p.config.model for p in plans):
        mine = [p for p in plans if p.config.model == model]
        asked, fit = sorted({p.batch_rows for p in mine}), sorted(p.largest_batch for p in mine)
        weights = f"{model}: {size(mine[0].weights_bytes)} of weights"
        print(f"{weights}; {_span(asked)} rows are decoded together, {_span(fit)} would fit")


def _span(values: list[int]) -> str:
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _print_cells(plans: list[CellForecast]) -> None:
    """A line per cell below its model and benchmark; sources of numbers by letters, unless all have the same ones."""
    sources = list(dict.fromkeys(map(_sources, plans)))
    letters = dict(zip(sources, _letters(len(sources)), strict=True))
    panels = [p.cell_id.rsplit("/", 2)[0] for p in plans]
    cells = [(panel, p.config.label, p.config.budget) for panel, p in zip(panels, plans, strict=True)]
    unit, seconds = time_unit(max((p.seconds or 0 for p in plans), default=0))
    memory, n_bytes = size_unit(max(p.kv_bytes for p in plans))
    groups: dict[str, list[dict[str, str]]] = {}
    for p, cell in zip(plans, cells, strict=True):
        row = {
            # what the rest of the cell's parameters tells apart goes by the hash that `kvrepro run --cell` takes
            "method": cell[1] if cells.count(cell) == 1 else f"{cell[1]} ({p.config.hash8})",
            "budget": "-" if cell[2] is None else str(cell[2]),
            f"KV {memory}": f"{p.kv_bytes / n_bytes:.1f}",
            "rows": str(p.batch_rows),
            "rows that fit": str(p.largest_batch),
            "tokens/reply": f"{p.new_tokens:.0f}",
            "tokens/s": "-" if p.tps is None else f"{p.tps:.0f}",
            f"time {unit}": "-" if p.seconds is None else _rounded(p.seconds / seconds),
        }
        groups.setdefault(cell[0], []).append(row | ({"from": letters[_sources(p)]} if len(sources) > 1 else {}))
    print()
    print_table({f"{panel}, {len(groups[panel])} cells": rows for panel, rows in groups.items()})
    print()
    for source, letter in letters.items():
        print(f"{letter}: {source}" if len(sources) > 1 else source)
    assumed = [name for name in _ASSUMED if any(name in (p.tokens_source, p.time_source) for p in plans)]
    for name in assumed:
        print(fill(f"{name}: {_ASSUMED[name]}", WIDTH))
    if len(assumed) == len(_ASSUMED):
        print("together: too few seconds a token times too many tokens, so the total bounds the real time on no side.")


def _sources(p: CellForecast) -> str:
    time, tokens = p.time_source, p.tokens_source
    prompt = "" if p.prompt_source == "exact" else ", length of the prompts assumed"
    return (f"tokens and time {tokens}" if tokens == time else f"tokens {tokens}, time {time}") + prompt


def _rounded(value: float) -> str:
    """Three digits or the whole number."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:#.3g}".rstrip(".")


def _letters(n: int) -> list[str]:
    return [chr(ord("a") + i) for i in range(n)]


def _totals(plans: list[CellForecast]) -> dict[str, Any]:
    """Sums over the cells; a sum of bounds is a bound and is called one."""
    timed = [p for p in plans if p.seconds is not None]
    kinds = {p.time_source for p in timed} | {p.tokens_source for p in timed if p.tokens_source == "limit"}
    weights = {p.config.model: p.weights_bytes for p in plans}
    return {
        "n_cells": len(plans),
        "fits": sum(p.problem is None for p in plans),
        "timed_cells": len(timed),
        "hours": round(sum(p.seconds for p in timed) / 3600, 3) if timed else None,
        "time_from": sorted(kinds),
        "weights_bytes": sum(weights.values()),
        "results_bytes": sum(p.disk_bytes for p in plans),
        "largest_kv_bytes": max(p.kv_bytes for p in plans),
    }
