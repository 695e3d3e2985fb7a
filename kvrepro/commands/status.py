"""`kvrepro status`: which cells of a profile are done, running, failed or left, and which panels are measured."""

from __future__ import annotations

import argparse
import os
from statistics import mean
from typing import Any

from ..runs.folder import read_manifest
from ..runs.profiles import load_profile
from ..runs.throughput import Panel
from .printing import print_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile."""
    parser.add_argument("profile")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Print the counts, the time left by the mean of the finished cells, and a line per cell and panel."""
    cells = []
    profile = load_profile(args.profile)
    for folder in profile.folders:
        state = folder.state
        known = read_manifest(folder.path) if state == "done" else {"n_records": folder.n_replies, "wall_s": None}
        cells.append(
            {"cell_id": folder.cell_id, "state": state, "samples": known["n_records"], "wall_s": known["wall_s"]}
        )
    counts = {state: sum(c["state"] == state for c in cells) for state in ("done", "running", "failed", "left")}
    times = [c["wall_s"] for c in cells if c["state"] == "done"]
    eta = mean(times) * (len(cells) - len(times)) / (os.cpu_count() or 1) if times else None
    panels = [{"panel": p.name, "state": _panel_state(p)} for p in Panel.all_of(profile)]
    counted = ", ".join(f"{n} {state}" for state, n in counts.items())
    print(f"{args.profile}: {len(cells)} cells, {counted}" + (f", about {eta:.0f} s to go" if eta else ""))
    print_table(
        {
            "state": c["state"],
            "cell": c["cell_id"],
            "replies": c["samples"],
            "time": "-" if c["wall_s"] is None else f"{c['wall_s']:.0f} s",
        }
        for c in cells
    )
    print_table({"throughput": p["state"], "panel": p["panel"]} for p in panels)
    return {"profile": args.profile, **counts, "remaining_s": eta, "cells": cells, "panels": panels}


def _panel_state(panel: Panel) -> str:
    """The verdict of a panel whose throughput is measured, `waits` for its cells, or `left`."""
    return panel.read()["verdict"] if panel.is_measured else "waits" if panel.lacks else "left"
