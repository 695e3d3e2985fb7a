"""Throughput in a grid: marks, what is planned, why panels are left, and that nothing runs beside a measurement."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from kvrepro.cli import main
from kvrepro.files import write_rows
from kvrepro.grids.folder import GridFolder
from kvrepro.grids.plan import GridSettings, prepare, set_marks
from kvrepro.grids.workflow import noisy, snakemake_command, unmeasured
from kvrepro.runs.folder import MANIFEST, RECORDS
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.throughput import Panel

from ..kill_grid import small_project
from ..panels import finish, measured, profile


@pytest.fixture
def panel():
    finish()
    (found,) = Panel.all_of(profile())
    return found


@pytest.fixture
def marked(panel):
    """Whether there is a mark of the panel after they were set, and how old it is."""
    grid = GridFolder.new("mine")

    def look():
        set_marks(grid, profile())
        mark = grid.mark(panel)
        return mark.stat().st_mtime_ns if mark.is_file() else None

    return look


def test_marks_are_those_of_the_measured_panels_and_newer_than_their_cells(panel, marked):
    assert marked() is None
    measured(panel)
    os.utime(panel.path, (time.time() - 500,) * 2)
    assert marked() == max((folder.path / MANIFEST).stat().st_mtime_ns for folder in panel.folders)
    panel.path.unlink()
    assert marked() is None


def test_a_panel_that_was_too_noisy_is_read_but_a_grid_measures_it_again(panel, marked):
    measured(panel, "busy", load=0.02)
    assert panel.is_measured and not panel.is_settled
    assert marked() is None
    # it did not fail
    assert unmeasured([panel], 0.0) == []
    again = "again: kvrepro throughput mine --panel tiny-r1-llama/chain-12 --rounds 15"
    line = f"not measured: throughput of {panel.name}, window: {{}} (others kept {{}} % of the cores busy); {again}"
    assert noisy([panel]) == [line.format("too noisy to order its ends", 2)]
    measured(panel, "busy", load=0.47)
    assert noisy([panel]) == [line.format("machine busy", 47)]
    measured(panel, "level")
    assert panel.is_settled and noisy([panel]) == []


def test_a_panel_that_is_not_measured_has_a_line_that_says_why(panel):
    began = time.time() - 1
    assert unmeasured([panel], began) == [f"not started: throughput of {panel.name}"]
    panel.log.parent.mkdir(parents=True)
    panel.log.write_text("a warning\nkvrepro throughput: replies of at most 4 tokens\n")
    line = f"failed: throughput of {panel.name}: replies of at most 4 tokens (log: {panel.log})"
    assert unmeasured([panel], began) == [line]
    (panel.folders[0].path / RECORDS).unlink()
    assert unmeasured([panel], began)[0].startswith(
        f"not measured: throughput of {panel.name} needs all its replies: 1 "
    )
    # of a run that is over, the log says nothing
    assert unmeasured([panel], time.time() + 1)[0].startswith("not measured: ")


def planned(capfd, *more):
    """Jobs by rule of a grid's dry run."""
    assert main(["grid", "smoke", "--dry-run", "--json", *more]) == 0
    words = [line.split() for line in capfd.readouterr().err.splitlines()]
    return {w[0]: int(w[1]) for w in words if len(w) == 2 and w[0] in ("cell", "throughput", "figures")}


def test_throughput_waits_for_all_cells_of_its_panel_and_figures_for_it(capfd):
    smoke = load_profile("smoke")
    assert planned(capfd) == {"cell": 5, "throughput": 1, "figures": 1}
    finish(smoke.cells, "smoke")
    assert planned(capfd) == {"throughput": 1, "figures": 1}
    (panel,) = Panel.all_of(smoke)
    measured(panel)
    assert planned(capfd) == {"figures": 1}
    (panel.folders[3].path / RECORDS).unlink()
    assert planned(capfd) == {"cell": 1, "throughput": 1, "figures": 1}
    write_rows(panel.folders[3].path / RECORDS, [])
    measured(panel, "busy")
    assert planned(capfd) == {"throughput": 1, "figures": 1}


def test_a_part_measures_only_panels_that_it_completes(capfd):
    smoke = load_profile("smoke")
    only = ("--only", "tiny-r1-llama/chain-12/full")
    assert planned(capfd, *only) == {"cell": 1}
    finish([cell for cell in smoke.cells if cell.method != "full"], "smoke")
    assert planned(capfd, *only) == {"cell": 1, "throughput": 1}


STAND_IN = """#!{python}
import sys, time
began = time.monotonic()
time.sleep({sleep_s})
with open({log!r}, "a") as log:
    log.write(f"{{began}} {{time.monotonic()}} {{' '.join(sys.argv[1:])}}\\n")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="a script that stands in for Python")
def test_nothing_of_the_grid_runs_beside_a_measurement(tmp_path, monkeypatch):
    """Snakemake itself on two panels, with processes that do nothing but say when they ran."""
    root = small_project(tmp_path / "project")
    lines = ["throughput: {rounds: 5, rows: 1}", "methods: [full, window]", "defaults: {window: 32, max_new_tokens: 9}"]
    panels = [f"  - {{model: tiny-r1-llama, benchmark: {name}, budgets: [90]}}" for name in ("chain-12", "chain-23")]
    (root / "nbs_params" / "pair.yaml").write_text("\n".join([*lines, "panels:", *panels]))
    monkeypatch.setenv("KVREPRO_ROOT", str(root))
    log, stand_in = tmp_path / "log", tmp_path / "stand_in"
    stand_in.write_text(STAND_IN.format(python=sys.executable, sleep_s=0.3, log=str(log)))
    stand_in.chmod(0o755)
    pair, grid, settings = load_profile("pair"), GridFolder.new("pair"), GridSettings(3)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(stand_in))
        prepare(grid, pair, pair, Panel.all_of(pair), settings)
    done = subprocess.run(snakemake_command(grid, settings), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = [line.split(maxsplit=2) for line in log.read_text().splitlines()]
    times = [(float(began), float(ended), what) for began, ended, what in ran]
    alone = [run for run in times if "kvrepro throughput" in run[2]]
    assert len(times) == 7 and len(alone) == 2
    for began, ended, what in alone:
        assert all(end <= began or ended <= start for start, end, other in times if other != what)
    # cells do run side by side, and before all measurements
    (figures,) = [run for run in times if "kvrepro summary" in run[2]]
    cells = sorted({*times} - {*alone, figures})
    assert cells[1][0] < cells[0][1] and max(cells)[1] <= min(alone)[0]
    assert figures[0] >= max(ended for _, ended, _ in alone)
    assert all(grid.mark(thing).is_file() for thing in (*pair.folders, *Panel.all_of(pair)))
