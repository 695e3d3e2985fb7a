"""What a profile asks for and what lies on file: settings, panels, when a measurement counts, marks, the summary."""

from __future__ import annotations

import json
import shutil

import pytest

from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.paths import CHECKPOINTS
from kvrepro.runs.folder import MANIFEST, RECORDS
from kvrepro.runs.past_cells import GIVEN, PastCell
from kvrepro.runs.profiles import load_profile, parse_profile
from kvrepro.runs.summary import summarise_profile
from kvrepro.runs.throughput import Panel, ThroughputSettings, method_finding, read_panel, was_machine_busy

from ..cells import HAS_MODEL, WINDOW, build
from ..panels import CELLS, finish, measured, profile


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
    "text",
    [
        '{"verdict": "fa',
        "[1]",
        '{"verdict": "falls"}',
        '{"verdict": "falls", "cells": {}, "load": 3}',
        '{"verdict": "falls", "cells": {}, "methods": {}, "load": {}, "settings": {}}',
        '{"verdict": "falls", "cells": {}, "methods": {}, "load": {"mean": 0, "max": 0}, "settings": [1]}',
        '{"verdict": "falls", "cells": {"a": []}, "methods": {}, "load": {"mean": 0, "max": 0}, "settings": {}}',
    ],
)
def test_a_damaged_file_is_a_panel_that_is_not_measured_and_stops_nothing(panel, text, call):
    panel.path.parent.mkdir(parents=True)
    panel.path.write_text(text)
    with pytest.warns(RuntimeWarning, match=r"chain-12\.json is damaged or of another version: not measured"):
        assert panel.read() is None
    assert not panel.is_measured
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
