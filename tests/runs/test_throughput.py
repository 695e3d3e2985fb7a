"""What a profile asks for and what lies on file: settings, panels, when a measurement counts, marks, the summary."""

from __future__ import annotations

import json
import os
import time

import pytest

from kvrepro.cli import main
from kvrepro.errors import KvreproError, RunError, UnknownNameError
from kvrepro.graders import REVISION
from kvrepro.runs.folder import MANIFEST, RECORDS
from kvrepro.runs.past_cells import GIVEN, PastCell
from kvrepro.runs.profiles import Profile, load_profile
from kvrepro.runs.summary import summarise_profile
from kvrepro.runs.throughput import Panel, ThroughputSettings, method_finding, read_panel, was_machine_busy
from kvrepro.runs.workflow import set_marks, unmeasured

from ..cells import SETTINGS, WINDOW, build, write_finished

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


def measured(panel, verdict="falls", **verdicts):
    """A file as a measurement leaves it; `verdicts` of single methods."""
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
        }
        for cell in panel.cells
    }
    labels = dict.fromkeys(cell.label for cell in panel.cells if cell.budget is not None)
    methods = {
        label: {"smallest_vs_largest": None, "verdict": verdicts.get(label.split()[0], verdict)} for label in labels
    }
    load = {"mean": 0.0, "max": 0.0}
    panel.path.parent.mkdir(parents=True, exist_ok=True)
    panel.path.write_text(json.dumps({"verdict": verdict, "load": load, "methods": methods, "cells": rows}))


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


@pytest.mark.parametrize("text", ['{"verdict": "fa', "[1]", '{"verdict": "falls"}'])
def test_a_damaged_file_is_named_with_what_to_do(panel, text):
    panel.path.parent.mkdir(parents=True)
    panel.path.write_text(text)
    with pytest.raises(RunError, match=r"chain-12\.json .*delete it and measure again"):
        panel.read()


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


def test_a_part_measures_only_panels_that_it_completes(capfd):
    smoke = load_profile("smoke")
    only = ("--only", "tiny-r1-llama/chain-12/full")
    assert planned(capfd, *only) == {"cell": 1}
    finish([cell for cell in smoke.cells if cell.method != "full"], "smoke")
    assert planned(capfd, *only) == {"cell": 1, "throughput": 1}


def test_nothing_of_the_grid_runs_beside_a_measurement():
    from kvrepro.runs.workflow import project_root

    text = (project_root() / "Snakefile").read_text()
    rule = text.split("rule throughput:")[1].split("\nrule ")[0]
    lines = [line.strip() for line in rule.splitlines()]
    assert "threads: workflow.cores" in lines and "resources: gpu=1" in lines
    # a mark alone, as for cells: Snakemake deletes outputs
    assert [line for line in lines if line.startswith("output:")] == [
        'output: touch(ROOT / ".done" / "throughput" / "{panel}")'
    ]
    assert "priority: 1" in text.split("rule cell:")[1].split("\nrule ")[0]
