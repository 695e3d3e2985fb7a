"""The plan that a grid writes for Snakemake: marks of what is complete, what cells ask for, parts of long cells."""

from __future__ import annotations

import json
import os
import time
from types import SimpleNamespace

import pytest

from kvrepro.grids.folder import GridFolder
from kvrepro.grids.plan import GridSettings, prepare, set_marks
from kvrepro.paths import project_root
from kvrepro.runs.folder import MANIFEST, CellFolder
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.scheduling import Request
from kvrepro.runs.throughput import Panel

from ..panels import finish

SMOKE = load_profile("smoke")
FIRST = SMOKE.cells[0].cell_id


def planned(settings, part=SMOKE):
    grid = GridFolder.new("smoke")
    prepare(grid, SMOKE, part, Panel.all_of(part), settings)
    return grid, grid.read_plan()


def test_marks_are_those_of_the_complete_cells_and_as_old():
    finish(SMOKE.cells[:1], "smoke")
    manifest = CellFolder.of("smoke", SMOKE.cells[0]).path / MANIFEST
    os.utime(manifest, (time.time() - 500,) * 2)
    grid = GridFolder.new("smoke")
    mark, stale = (grid.mark(folder) for folder in SMOKE.folders[:2])
    stale.parent.mkdir(parents=True)
    stale.touch()
    set_marks(grid, SMOKE)
    assert not stale.exists()
    assert mark.stat().st_mtime_ns == manifest.stat().st_mtime_ns
    # the cell was run again since
    os.utime(manifest)
    set_marks(grid, SMOKE)
    assert mark.stat().st_mtime_ns == manifest.stat().st_mtime_ns


def test_snakemake_owns_marks_and_no_results():
    # it removes a job's outputs before the job starts, and after it failed
    text = (project_root() / "Snakefile").read_text()
    outputs = [line.split("output: ")[1] for line in text.splitlines() if "output:" in line]
    assert len(outputs) == 4 and all(output.startswith("touch(MARKS / ") for output in outputs)


def test_two_grids_have_nothing_in_common():
    (one, first), (two, second) = planned(GridSettings(1)), planned(GridSettings(1))
    assert one.path != two.path and one.lock != two.lock
    assert {cell["mark"] for cell in first["cells"].values()}.isdisjoint(c["mark"] for c in second["cells"].values())


def test_the_figures_are_made_of_the_whole_and_not_of_a_part():
    grid, plan = planned(GridSettings(1))
    assert str(grid.figures_mark) in plan["targets"] and len(plan["targets"]) == len(SMOKE.cells) + 2
    part = SimpleNamespace(cells=SMOKE.cells[:1], folders=SMOKE.folders[:1], throughput=None)
    grid, plan = planned(GridSettings(1), part)
    assert plan["targets"] == [str(grid.mark(SMOKE.folders[0]))]


EXECUTOR = SimpleNamespace(
    default=lambda name: 1440,
    asked=lambda grid, profile, needs, is_alone=False: f"{needs['mem_mb']} {'alone' * is_alone}",
    folder=SimpleNamespace(name="slurm"),
)
ASKED = Request(mem_mb=3000, runtime_min=20, gpus=0)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # here memory and time are not counted, and a GPU is one for every cell where they are
        (GridSettings(2), (0, 0, 0)),
        (GridSettings(2, ["0", "1"]), (1, 0, 0)),
        (GridSettings(2, ["0", "1", "2"], requests={FIRST: Request(1, 1, 2)}), (2, 0, 0)),
        # a scheduler is asked for what the cell needs; where no time is known, for what its file says
        (GridSettings(2, None, EXECUTOR, {FIRST: ASKED}), (0, 3000, 20)),
        (GridSettings(2, [], EXECUTOR, {FIRST: Request(1, None, 1)}), (1, 1, 1440)),
    ],
)
def test_what_a_cell_asks_for(settings, expected):
    _, plan = planned(settings)
    asked = plan["cells"][FIRST]["whole"]
    assert (asked["gpus"], asked["mem_mb"], asked["runtime_min"]) == expected
    (panel,) = plan["panels"].values()
    told = ("", "") if settings.executor is None else (f"{expected[1]} ", "0 alone")
    assert (asked["ask"], panel["ask"]) == told


@pytest.mark.parametrize(
    ("gpus", "executor", "needed", "given"),
    [
        (None, None, 2, 0),
        (["0"], None, 0, 1),
        (["0", "1"], None, 2, 2),
        ([], None, 2, 0),
        (None, EXECUTOR, 0, 0),
        (None, EXECUTOR, 2, 2),
        ([None], EXECUTOR, 0, 1),
        ([], EXECUTOR, 2, 0),
    ],
)
def test_the_gpus_that_a_cell_gets(gpus, executor, needed, given):
    assert GridSettings(2, gpus, executor).given(needed) == given


def test_parts_ask_for_what_the_cell_asks_for_and_putting_them_together_for_no_gpu():
    _, plan = planned(GridSettings(2, ["0"], shards={FIRST: 3}))
    cell = plan["cells"][FIRST]
    assert cell["parts"] == ["1-of-3", "2-of-3", "3-of-3"]
    assert (cell["part"]["gpus"], cell["whole"]["gpus"]) == (1, 0)
    assert plan["cells"][SMOKE.cells[1].cell_id]["parts"] == []


def test_replies_of_a_version_without_parts_are_put_together_by_a_run_with_the_model():
    partial = SMOKE.folders[0].partial
    partial.mkdir(parents=True)
    (partial / "completions.jsonl").touch()
    _, plan = planned(GridSettings(2, shards={FIRST: 3}))
    assert plan["cells"][FIRST]["parts"] == []


def test_a_killed_grid_s_folder_is_no_grid_that_runs(tmp_path):
    grid, _ = planned(GridSettings(1))
    assert [found.path for found in GridFolder.all_of("smoke")] == [grid.path]
    assert not grid.is_alive
    assert json.loads(grid.plan_file.read_text())["profile"] == "smoke"
