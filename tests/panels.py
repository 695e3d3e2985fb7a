"""A profile of one panel whose cells, and whose throughput, are made by hand."""

from __future__ import annotations

import json

from kvrepro.graders import REVISION
from kvrepro.runs.folder import MANIFEST
from kvrepro.runs.profiles import Profile
from kvrepro.runs.throughput import ThroughputSettings

from .cells import SETTINGS, WINDOW, build, write_finished

CELLS = (build(SETTINGS), build(WINDOW), build(WINDOW, budget=100))


def profile(**changes) -> Profile:
    return Profile(**{"name": "mine", "title": "", "cells": CELLS, "throughput": ThroughputSettings(), **changes})


def finish(cells=CELLS, name="mine"):
    for cell in cells:
        folder = write_finished(name, cell)
        manifest = json.loads((folder.path / MANIFEST).read_text())
        manifest |= {
            "ended": "2026-01-01",
            "evictions": 0,
            "kv_tokens_peak": 0,
            "method": {},
            "grader_revision": REVISION,
        }
        manifest["stats"] |= {"kv_bytes": 0, "capacity_tokens": 0, "bytes_per_slot": 0}
        (folder.path / MANIFEST).write_text(json.dumps(manifest))


def measured(panel, verdict="falls", rounds=None, load=0.0, evictions=7, refitted=0, **verdicts):
    """A file as a measurement leaves it; `verdicts` of single methods."""
    settings = {**vars(panel.settings), "rounds": rounds or panel.settings.rounds}
    runs = panel.runs()
    rows = {
        cell.cell_id: {
            "method": cell.method,
            "label": cell.label,
            "budget": cell.budget,
            "ended": runs[cell.cell_id],
            "decode_tps": 200.0,
            "decode_tps_lo": 190.0,
            "decode_tps_hi": 210.0,
            "tps_vs_full": 2.0,
            "tps_vs_full_lo": 1.9,
            "tps_vs_full_hi": 2.1,
            "live_rows_mean": 3.5,
            "evictions": evictions,
            "recorded_evictions": 7,
            "refitted": refitted,
        }
        for cell in panel.cells
    }
    labels = dict.fromkeys(cell.label for cell in panel.cells if cell.budget is not None)
    methods = {
        label: {"smallest_vs_largest": None, "verdict": verdicts.get(label.split()[0], verdict)} for label in labels
    }
    found = {"settings": settings, "rounds": settings["rounds"], "rows": 4, "load": {"mean": load, "max": load}}
    panel.path.parent.mkdir(parents=True, exist_ok=True)
    panel.path.write_text(json.dumps({**found, "verdict": verdict, "methods": methods, "cells": rows}))
