"""Snakemake plans what is missing, whatever it did before; why a cell failed is one line."""

from __future__ import annotations

import json
import os
import time

import pytest

from kvrepro.cli import main
from kvrepro.errors import RunError
from kvrepro.grids import workflow
from kvrepro.grids.folder import GridFolder
from kvrepro.grids.plan import GridSettings
from kvrepro.grids.workflow import failures
from kvrepro.runs.folder import MANIFEST, RECORDS, CellFolder
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.throughput import Panel

from ..panels import finish

SMOKE = load_profile("smoke")


def planned(capfd):
    """Cells that Snakemake would run, and whether it would draw."""
    assert main(["grid", "smoke", "--dry-run", "--json"]) == 0
    words = [line.split() for line in capfd.readouterr().err.splitlines()]
    counts = {w[0]: int(w[1]) for w in words if len(w) == 2 and w[0] in ("cell", "figures")}
    return counts.get("cell", 0), counts.get("figures", 0)


def test_a_result_that_was_deleted_is_planned_again_although_the_page_is_newer(capfd):
    finish(SMOKE.cells, "smoke")
    for folder in SMOKE.folders:
        os.utime(folder.path / MANIFEST, (time.time() - 500,) * 2)
    (panel,) = Panel.all_of(SMOKE)
    panel.path.parent.mkdir(parents=True)
    cells = {cell: {"ended": ended} for cell, ended in panel.runs().items()}
    found = {
        "settings": vars(panel.settings),
        "verdict": "falls",
        "methods": {},
        "load": {"mean": 0.0, "max": 0.0},
        "cells": cells,
    }
    panel.path.write_text(json.dumps(found))
    os.utime(panel.path, (time.time() - 500,) * 2)
    page = CellFolder.of("smoke", SMOKE.cells[0]).path.parents[3]
    for name in ("index.html", "summary.csv", f"{SMOKE.notebook}.ipynb"):
        (page / name).touch()
    assert planned(capfd) == (0, 0)
    (SMOKE.folders[2].path / RECORDS).unlink()
    assert planned(capfd) == (1, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x: warning\nkvrepro run: cell a failed: no memory\nexecuted notebook: b.ipynb\n", "cell a failed: no memory"),
        ("Fatal Python error: Aborted\n\n", "Fatal Python error: Aborted"),
        ("", "its process was killed before it wrote anything"),
        # an earlier attempt's words say nothing of the last one
        ("kvrepro run: long ago\n== 2026 host\n", "its process was killed before it wrote anything"),
        ("kvrepro run: long ago\n== 2026 host\nkvrepro run: no memory\n", "no memory"),
        ('done\n{"cell_id": "a"}\n', "it was done, and its results were damaged or deleted since: run the grid again"),
    ],
)
def test_the_reason_of_a_failed_cell_is_one_line(text, reason):
    began = time.time() - 1
    first, second = SMOKE.cells[:2]
    log, old = CellFolder.of("smoke", first).log, CellFolder.of("smoke", second).log
    log.parent.mkdir(parents=True)
    log.write_text(text)
    # the log of another run says nothing about this one
    old.write_text("kvrepro run: long ago\n")
    os.utime(old, (began - 100, began - 100))
    lines = failures(SMOKE, began)
    assert lines[0] == f"failed: {first.cell_id}: {reason} (log: {log})"
    assert lines[1:] == [f"not started: {cell.cell_id}" for cell in SMOKE.cells[1:]]


def test_a_snakemake_that_failed_itself_is_one_message():
    grid = GridFolder.new("smoke")
    grid.path.mkdir(parents=True)
    grid.log.write_text("usage: snakemake\nsnakemake: error: unrecognized arguments: --x\n\n")
    error = workflow.snakemake_error(grid)
    assert isinstance(error, RunError)
    assert f"unrecognized arguments: --x (log: {grid.kept_log})" in str(error)
    # what Snakemake said is kept when the grid's folder goes
    grid.remove()
    assert not grid.path.exists() and "--x" in grid.kept_log.read_text()


def test_flags_for_snakemake_are_quoted_as_in_a_shell():
    settings = GridSettings(1, more="--executor local --set-resources 'cell:note=a b'")
    command = workflow.snakemake_command(GridFolder.new("smoke"), settings)
    assert command[-4:] == ["--executor", "local", "--set-resources", "cell:note=a b"]
