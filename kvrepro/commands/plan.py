"""`kvrepro plan`: memory, time and disk of every cell of a profile before anything is started."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import KvreproError
from ..models.memory import GIB
from ..runs.machines import GPUS, machine
from ..runs.profiles import load_profile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, the GPU, and tables of measured cells."""
    parser.add_argument("--profile", required=True)
    parser.add_argument("--gpu", help=f"plan for this GPU: {', '.join(GPUS)} (default: this machine)")
    measured = "a summary.csv of finished cells, measured on the GPU that is planned for"
    parser.add_argument("--measured", type=Path, action="append", default=[], help=measured)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print a line per cell, what does not fit and why, and the totals."""
    from ..runs.forecast import CellForecast
    from ..runs.past_cells import past_cells

    for path in args.measured:
        if not path.is_file():
            raise KvreproError(f"--measured {path}: no such file; give the summary.csv of a profile")
    profile, on = load_profile(args.profile), machine(args.gpu)
    known = past_cells(profile, args.measured)
    plans = [CellForecast(config, on, known) for config in profile.cells]
    print(f"{profile.name} on {on.name}, {on.memory_bytes / GIB:.0f} GiB")
    print(f"{'cell':44} {'weights':>8} {'KV':>9} {'rows':>5} {'most':>6} {'tokens':>8} {'TPS':>7} {'time':>9}  from")
    for p in plans:
        name = p.cell_id.rsplit("/", 1)[0]
        tps = "-" if p.tps is None else f"{p.tps:.0f}"
        prompt = "" if p.prompt_source == "exact" else " (prompt assumed)"
        print(
            f"{name[:44]:44} {_gib(p.weights_bytes):>8} {_gib(p.kv_bytes):>9} {p.batch_rows:5} {p.largest_batch:6} "
            f"{p.new_tokens:8.0f} {tps:>7} {_duration(p.seconds):>9}  tokens {p.tokens_source}, time "
            f"{p.time_source}{prompt}"
        )
    for p in plans:
        if p.problem:
            print(f"does not fit: {p.cell_id}: {p.problem}")
    return {"profile": profile.name, "machine": on.name, **_totals(plans), "cells": [p.row() for p in plans]}


def _totals(plans: list) -> dict[str, Any]:
    """Sums over the cells; a sum of bounds is a bound and is called one."""
    known = [p for p in plans if p.seconds is not None]
    kinds = sorted({p.time_source for p in known} | {p.tokens_source for p in known if p.tokens_source == "limit"})
    seconds = sum(p.seconds for p in known)
    weights = {p.config.model: p.weights_bytes for p in plans}
    totals = {
        "n_cells": len(plans),
        "fits": sum(p.problem is None for p in plans),
        "timed_cells": len(known),
        "hours": round(seconds / 3600, 3) if known else None,
        "time_from": kinds,
        "weights_bytes": sum(weights.values()),
        "results_bytes": sum(p.disk_bytes for p in plans),
        "largest_kv_bytes": max(p.kv_bytes for p in plans),
    }
    print(
        f"total: {totals['n_cells']} cells, {totals['fits']} fit; "
        + (f"{_duration(seconds)} for {len(known)} of them ({', '.join(kinds)})" if known else "no time is known")
        + f"; disk {_gib(totals['weights_bytes'])} weights, {totals['results_bytes'] / 1e6:.0f} MB results"
    )
    if "bound" in kinds:
        print(
            "bound: weights without the embedding table and the cache, read once a step at the data sheet's bandwidth. "
            "No run is faster; real ones are slower by a factor that is not known until the first cell is measured."
        )
    if "limit" in kinds:
        print("limit: no cell of that model and benchmark is measured, so every reply is counted at max_new_tokens.")
    if {"bound", "limit"} <= set(kinds):
        print("together: too few seconds a token times too many tokens, so the total bounds the real time on no side.")
    return totals


def _gib(n: int) -> str:
    return f"{n / 2**30:.1f}G" if n >= 2**30 else f"{n / 2**20:.1f}M"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
