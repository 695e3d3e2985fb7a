"""`kvrepro plan`: memory, time and disk of every cell of a profile before anything is started."""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import KvreproError
from ..runs.machines import GPUS, machine
from ..runs.past_cells import past_cells
from ..runs.profiles import load_profile
from ..runs.scheduling import CELL, PANELS, Box
from .printing import duration, print_table, size

if TYPE_CHECKING:
    from ..runs.forecast import CellForecast

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
    """Print the totals, a line per cell, and what does not fit and why."""
    from ..runs.forecast import CellForecast

    for path in args.measured:
        if not path.is_file():
            raise KvreproError(f"--measured {path}: no such file; give the summary.csv of a profile")
    profile, on = load_profile(args.profile), machine(args.gpu, args.gpus)
    known = past_cells(profile, args.measured)
    plans = [CellForecast(config, on, known) for config in profile.cells]
    totals = {**_totals(plans), "throughput_hours": None}
    time, measuring = "no time is known", 0.0
    if timed := totals["timed_cells"]:
        time = f"{duration(sum(p.seconds or 0 for p in plans))} for {timed} of them ({', '.join(totals['time_from'])})"
        if profile.throughput is not None:
            measuring = sum(p.throughput_seconds(profile.throughput) or 0 for p in plans)
            totals["throughput_hours"] = round(measuring / 3600, 3)
            time += f", {duration(measuring)} to measure their throughput after that, one panel at a time"
    print(
        f"{profile.name}: {totals['n_cells']} cells, {totals['fits']} fit on {on.name} ({size(on.memory_bytes)}); "
        f"{time}; disk {size(totals['weights_bytes'])} weights, {size(totals['results_bytes'])} results"
    )
    box = Box.of(plans, on.gpus, measuring) if on.gpus else None
    if box is not None and box.gpus > 1:
        print(_on_box(box, profile.name, on.name))
    _print_batches(plans)
    print_table(map(_shown, plans))
    assumed = [name for name in _ASSUMED if name in totals["time_from"]]
    for name in assumed:
        print(f"{name}: {_ASSUMED[name]}")
    if len(assumed) == len(_ASSUMED):
        print("together: too few seconds a token times too many tokens, so the total bounds the real time on no side.")
    for p in plans:
        if p.problem:
            print(f"does not fit: {p.cell_id}: {p.problem}")
    about = {"profile": profile.name, "machine": on.name, **totals}
    about["box"] = None if box is None else {"seconds": box.seconds, **asdict(box)}
    return {**about, "cells": [p.row() for p in plans]}


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


def _print_batches(plans: list[CellForecast]) -> None:
    """A line per model: rows that its cells decode together, and rows that would fit."""
    for model in dict.fromkeys(p.config.model for p in plans):
        mine = [p for p in plans if p.config.model == model]
        asked, fit = sorted({p.batch_rows for p in mine}), sorted(p.largest_batch for p in mine)
        print(f"batch of {model}: {_span(asked)} rows; {_span(fit)} fit (column `fits`)")


def _span(values: list[int]) -> str:
    return f"{values[0]}" if values[0] == values[-1] else f"{values[0]} to {values[-1]}"


def _shown(p: CellForecast) -> dict[str, Any]:
    prompt = "" if p.prompt_source == "exact" else " (prompt assumed)"
    return {
        "cell": p.cell_id.rsplit("/", 1)[0],
        "weights": size(p.weights_bytes),
        "KV": size(p.kv_bytes),
        "batch": p.batch_rows,
        "fits": p.largest_batch,
        "tokens": f"{p.new_tokens:.0f}",
        "TPS": "-" if p.tps is None else f"{p.tps:.0f}",
        "time": duration(p.seconds),
        "from": f"tokens {p.tokens_source}, time {p.time_source}{prompt}",
    }


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
