"""What a profile asks for and what lies on file: settings, panels, when a measurement counts, marks, the summary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from kvrepro.bench import throughput
from kvrepro.cli import main
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.files import write_rows
from kvrepro.graders import REVISION
from kvrepro.paths import CHECKPOINTS
from kvrepro.runs.folder import MANIFEST, RECORDS
from kvrepro.runs.past_cells import GIVEN, PastCell
from kvrepro.runs.profiles import Profile, load_profile, parse_profile
from kvrepro.runs.summary import summarise_profile
from kvrepro.runs.throughput import Panel, ThroughputSettings, method_finding, read_panel, was_machine_busy
from kvrepro.runs.workflow import noisy, set_marks, snakemake_command, unmeasured

from ..cells import HAS_MODEL, SETTINGS, WINDOW, build, write_finished
from ..kill_grid import small_project

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
            "cell_id": cell.cell_id,
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


@pytest.fixture
def panel():
    finish()
    (found,) = Panel.all_of(profile())
    return found


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("many", "must be a mapping such as"),
        (["rounds"], "must be a mapping such as"),
        ({"rounds": 4}, "rounds=4: must be at least 5"),
        ({"rows": 0}, "rows=0: must be at least 1"),
        ({"turn_tokens": 0}, "turn_tokens=0: must be at least 1"),
        ({"rounds": "six"}, "rounds='six' is str, expected int"),
        ({"rounds": True}, "rounds=True is bool, expected int"),
    ],
)
def test_settings_that_make_no_sense_are_named(values, message):
    with pytest.raises(KvreproError, match=message):
        ThroughputSettings.from_mapping(values)


def test_an_unknown_setting_is_named_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"throughput 'round'.*rounds, rows, turn_tokens.*did you mean 'rounds'"):
        ThroughputSettings.from_mapping({"round": 5})


def test_a_pass_makes_five_rounds_in_turns_and_one_with_whole_replies():
    assert ThroughputSettings(turn_tokens=4).passes() == [[0, 1, 2, 3, 4]]
    assert ThroughputSettings(rounds=12, turn_tokens=4).passes() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert ThroughputSettings(rounds=6).passes() == [[0], [1], [2], [3], [4], [5]]


def test_panels_are_those_of_a_profile_that_asks():
    tiny = load_profile("tiny")
    panels = Panel.all_of(tiny)
    assert [cell for panel in panels for cell in panel.cells] == list(tiny.cells)
    assert all({(c.model, c.benchmark) for c in panel.cells} == {tuple(panel.name.split("/"))} for panel in panels)
    assert Panel.all_of(load_profile("tiny-methods")) == []


def test_a_measurement_counts_until_a_cell_is_run_again(panel):
    assert not panel.is_measured and panel.read() is None
    measured(panel)
    assert panel.is_measured
    assert read_panel("mine", "tiny-r1-llama", "chain-12") == panel.read()
    path = panel.folders[1].path / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), "ended": "2026-01-02"}))
    assert not panel.is_measured


def test_a_measurement_does_not_count_without_its_cells_or_for_others(panel):
    measured(panel)
    (panel.folders[2].path / RECORDS).unlink()
    assert panel.lacks.endswith(f"1 of 3 cells are not complete, {CELLS[2].cell_id} first")
    assert not panel.is_measured
    # a budget was taken out of the profile
    (fewer,) = Panel.all_of(profile(cells=CELLS[:2]))
    assert not fewer.lacks and not fewer.is_measured


def test_a_method_is_told_by_its_first_variant_and_by_its_first_cell_of_a_budget():
    cells = {
        "a": {"method": "full", "label": "full", "budget": None},
        "b": {"method": "h2o", "label": "h2o", "budget": 200},
        "c": {"method": "h2o", "label": "h2o", "budget": 100},
        "d": {"method": "h2o", "label": "h2o", "budget": 100, "window": "another"},
        "e": {"method": "h2o", "label": "h2o + question", "budget": 50},
    }
    methods = {"h2o": {"verdict": "falls"}, "h2o + question": {"verdict": "rises"}}
    found = method_finding({"cells": cells, "methods": methods}, "h2o")
    assert found == {"label": "h2o", "verdict": "falls", "cells": [cells["c"], cells["b"]]}
    assert method_finding({"cells": cells, "methods": methods}, "dynts") is None
    # the full cache has no budgets
    assert method_finding({"cells": cells, "methods": methods}, "full") is None


@pytest.mark.parametrize(("mean", "expected"), [(0.02, False), (0.4, True)])
def test_a_busy_machine_is_told_from_other_noise_by_its_load(mean, expected):
    assert was_machine_busy({"load": {"mean": mean, "max": 1.0}}) is expected


@pytest.mark.parametrize(
    "text", ['{"verdict": "fa', "[1]", '{"verdict": "falls"}', '{"verdict": "falls", "cells": {}, "load": 3}']
)
def test_a_damaged_file_is_a_panel_that_is_not_measured_and_stops_nothing(panel, text, call):
    panel.path.parent.mkdir(parents=True)
    panel.path.write_text(text)
    with pytest.warns(RuntimeWarning, match=r"chain-12\.json is damaged or of another version: not measured"):
        assert panel.read() is None
    set_marks(profile())
    assert not panel.is_measured and not panel.mark.exists()
    assert summarise_profile(profile()).decode_tps.isna().all()
    smoke = load_profile("smoke")
    finish(smoke.cells, "smoke")
    (other,) = Panel.all_of(smoke)
    other.path.parent.mkdir(parents=True)
    other.path.write_text(text)
    assert json.loads(call("status", "smoke", "--json")[1])["panels"][0]["state"] == "left"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (ThroughputSettings(), True),
        (ThroughputSettings(rounds=15), True),
        (ThroughputSettings(rounds=16), False),
        (ThroughputSettings(rows=20), False),
        (ThroughputSettings(turn_tokens=4), False),
    ],
)
def test_a_measurement_counts_while_it_is_what_the_profile_asks_for(panel, settings, expected):
    measured(panel, rounds=15)
    (asked,) = Panel.all_of(profile(throughput=settings))
    assert asked.is_measured is expected


@pytest.mark.skipif(not HAS_MODEL, reason="needs the tiny model")
def test_models_whose_names_end_alike_are_refused_where_they_would_share_a_panel(tmp_path):
    folders = [tmp_path / name / "mine" for name in "ab"]
    for folder in folders:
        shutil.copytree(CHECKPOINTS / "tiny-r1-llama", folder)
    panels = [f"  - {{model: {folder}, benchmark: chain-12}}" for folder in folders]
    path = tmp_path / "pair.yaml"
    path.write_text("\n".join(["panels:", *panels]))
    assert len(parse_profile("pair", path).cells) == 2
    path.write_text("\n".join(["throughput: {rounds: 5}", "panels:", *panels]))
    with pytest.raises(KvreproError, match=rf"models {folders[0]} and {folders[1]} end alike.*rename a folder"):
        parse_profile("pair", path)


def test_marks_are_those_of_the_measured_panels_and_newer_than_their_cells(panel):
    set_marks(profile())
    assert not panel.mark.exists()
    measured(panel)
    os.utime(panel.path, (time.time() - 500,) * 2)
    set_marks(profile())
    newest = max((folder.path / MANIFEST).stat().st_mtime_ns for folder in panel.folders)
    assert panel.mark.stat().st_mtime_ns == newest
    panel.path.unlink()
    set_marks(profile())
    assert not panel.mark.exists()


def test_a_panel_that_was_too_noisy_is_read_but_a_grid_measures_it_again(panel):
    measured(panel, "busy", load=0.02)
    assert panel.is_measured and not panel.is_settled
    set_marks(profile())
    assert not panel.mark.exists()
    # it did not fail
    assert unmeasured([panel], 0.0) == []
    again = "again: kvrepro throughput mine --panel tiny-r1-llama/chain-12 --rounds 15"
    line = "not measured: throughput of tiny-r1-llama/chain-12: {} (others kept {} % of the cores busy); " + again
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


def test_the_summary_holds_what_was_measured_and_the_runs_own_speed(panel):
    columns = ["decode_tps", "decode_tps_lo", "decode_tps_hi", "tps_vs_full"]
    frame = summarise_profile(profile())
    assert frame[columns].isna().all(axis=None) and set(frame.run_tps) == {100.0}
    measured(panel)
    frame = summarise_profile(profile())
    assert frame[columns].to_numpy().tolist() == [[200.0, 190.0, 210.0, 2.0]] * 3 and set(frame.run_tps) == {100.0}
    # too noisy to order anything, and what nobody asks for any more
    measured(panel, "busy")
    assert summarise_profile(profile())[columns].isna().all(axis=None)
    measured(panel)
    assert summarise_profile(profile(throughput=None))[columns].isna().all(axis=None)


def test_the_summary_leaves_out_only_the_methods_that_are_not_ordered():
    cells = (*CELLS, build({**WINDOW, "method": "question_window"}))
    finish(cells)
    (panel,) = Panel.all_of(profile(cells=cells))
    measured(panel, "busy", question_window="falls")
    frame = summarise_profile(profile(cells=cells)).set_index("label")
    assert frame.decode_tps.isna().to_dict() == {"full": False, "window": True, "question_window": False}


def test_the_plan_takes_the_speed_of_the_run_and_not_what_was_measured_apart(panel):
    measured(panel)
    row = summarise_profile(profile()).to_dict("records")[0]
    past = PastCell.of(row, GIVEN)
    # 4 replies of 9 tokens at 100 tokens a second, of 10 seconds
    assert (past.tps, past.overhead_s) == (100.0, pytest.approx(10 - 36 / 100))
    # a table from before throughput was measured apart
    old = {name: value for name, value in row.items() if name != "run_tps"} | {"decode_tps": 50.0}
    assert PastCell.of(old, GIVEN).tps == 50.0


def test_the_command_names_what_it_cannot_measure(call):
    code, _, err = call("throughput", "tiny-methods")
    assert code == 2 and "asks for no throughput: add `throughput: {rounds: 5, rows: 48}`" in err
    code, _, err = call("throughput", "smoke", "--panel", "tiny-r1-llama/chain-21")
    assert code == 2 and "unknown panel of profile smoke 'tiny-r1-llama/chain-21'; known: tiny-r1-llama/chain-12" in err
    code, _, err = call("throughput", "smoke", "--rounds", "2")
    assert code == 2 and "rounds=2: must be at least 5" in err
    code, out, err = call("throughput", "smoke", "--json")
    assert code == 0 and json.loads(out)["incomplete"] == ["tiny-r1-llama/chain-12"]
    assert "not measured: throughput of tiny-r1-llama/chain-12 needs all its replies: 5 of 5 cells" in err
    code, _, err = call("throughput", "smoke", "--panel", "tiny-r1-llama/chain-12")
    assert code == 2 and "run them with `kvrepro grid smoke`" in err


def test_the_command_measures_what_is_noisy_or_has_fewer_rounds_and_says_what_differs(call, monkeypatch):
    smoke = load_profile("smoke")
    finish(smoke.cells, "smoke")
    (panel,) = Panel.all_of(smoke)
    rounds = []

    def measure(asked, settings):
        rounds.append(settings.rounds)
        measured(panel, rounds=settings.rounds, evictions=6, refitted=2)
        return panel.read()

    monkeypatch.setattr(throughput, "measure_panel", measure)
    measured(panel, rounds=9)
    code, out, err = call("throughput", "smoke", "--rounds", "7")
    assert code == 0 and rounds == [] and "falls, measured already in 9 rounds of 4 rows" in out
    assert "not quite" not in err
    code, out, err = call("throughput", "smoke", "--rounds", "15")
    assert rounds == [15] and "falls, measured in 15 rounds" in out
    cell = smoke.cells[0].cell_id
    assert f"{cell}: not quite what it ran: 6 evictions, 7 when it ran; 2 replies whose text" in err
    measured(panel, "busy", window="falls")
    code, out, _ = call("throughput", "smoke")
    assert rounds == [15, 5]
    call("throughput", "smoke")
    assert rounds == [15, 5]
    call("throughput", "smoke", "--again")
    assert rounds == [15, 5, 5]


def test_status_says_which_panels_wait_are_left_or_measured(call):
    smoke = load_profile("smoke")
    (panel,) = Panel.all_of(smoke)

    def state():
        return json.loads(call("status", "smoke", "--json")[1])["panels"]

    assert state() == [{"panel": panel.name, "state": "waits"}]
    finish(smoke.cells, "smoke")
    assert state() == [{"panel": panel.name, "state": "left"}]
    measured(panel, "level")
    assert state() == [{"panel": panel.name, "state": "level"}]


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
    snakefile = root / "Snakefile"
    text = snakefile.read_text()
    snakefile.unlink()
    snakefile.write_text(text.replace("{sys.executable}", str(stand_in)))
    pair = load_profile("pair")
    marks = [thing.mark for thing in (*pair.folders, *Panel.all_of(pair))]
    done = subprocess.run(snakemake_command("pair", marks, cores=3), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = [line.split(maxsplit=2) for line in log.read_text().splitlines()]
    times = [(float(began), float(ended), what) for began, ended, what in ran]
    alone = [run for run in times if "kvrepro throughput" in run[2]]
    assert len(times) == 6 and len(alone) == 2
    for began, ended, what in alone:
        assert all(end <= began or ended <= start for start, end, other in times if other != what)
    # cells do run side by side, and before all measurements
    cells = sorted(set(times) - set(alone))
    assert cells[1][0] < cells[0][1] and max(cells)[1] <= min(alone)[0]
    assert all(mark.is_file() for mark in marks)
