"""`kvrepro throughput` and the panels of `kvrepro status`: what is measured, what is left and why."""

from __future__ import annotations

import json

from kvrepro.bench import throughput
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.throughput import Panel

from ..panels import finish, measured


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
