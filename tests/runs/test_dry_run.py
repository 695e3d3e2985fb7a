"""A dry run refuses what the run would, and prints the values that it would use."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from kvrepro.cli import main
from kvrepro.errors import KvreproError
from kvrepro.runs.preflight import check_cells

from .test_resolution import BASE, config

DRY = [
    ({"options": "{nonsense: 1}"}, "unknown option of method snapkv 'nonsense'; known: .*obs_window"),
    ({"options": "{obs_window: 2.5}"}, "option obs_window of method snapkv=2.5 is float, expected int"),
    ({"options": "{pin_question: 1}"}, "option pin_question of method snapkv=1 is int, expected bool"),
    ({"options": "{obs_window: 0}"}, "obs_window=0: must be at least 1"),
    ({"options": "{pool: mean}"}, "pool='mean': known are max, avg"),
    ({"options": "{granularity: token}"}, "granularity='token': known are shared, layer, head"),
    ({"options": "[1]"}, r"parameter options=\[1\] is list, expected a mapping or its JSON text"),
    ({"options": "'{\"sinks\": }'"}, "parameter options=.* is no JSON .*, expected a mapping or its JSON text"),
    ({"budget": "60"}, "problem chain-12-000: the prompt has 68 tokens, more than budget=60"),
    ({"budget": "100", "options": "{pin_question: true}"}, "problem chain-12-000: 68 pinned tokens do not fit"),
    ({"window": "4"}, "window=4 is smaller than obs_window=8"),
    ({"method": "oracle_future"}, "oracle_future looks into the future"),
    (
        {"method": "full", "budget": "null", "options": "{sinks: 4}"},
        "'full' never evicts, so sinks=4 would mean nothing",
    ),
    ({"method": "dynts", "predictor": "/nowhere"}, "no importance predictor in /nowhere"),
    ({"method": "sepllm", "options": "{separators: abc}"}, "unknown option of method sepllm 'separators'"),
]


@pytest.mark.parametrize("flags", [["--dry-run"], []], ids=["dry", "run"])
@pytest.mark.parametrize(("changes", "message"), DRY)
def test_what_a_run_refuses_a_dry_run_refuses(capsys, monkeypatch, changes, message, flags):
    def run_cell_notebook(*_):
        raise AssertionError("nothing may start")

    monkeypatch.setattr("kvrepro.runs.notebooks.run_cell_notebook", run_cell_notebook)
    chosen = {**BASE, "method": "snapkv", "budget": "160", **changes}
    items = [part for name, value in chosen.items() for part in ("--set", f"{name}={value}")]
    assert main(["run", *items, *flags]) == 2
    out, err = capsys.readouterr()
    assert "cell_id" not in out
    assert re.search(message, err), err


def test_a_grid_refuses_a_prompt_beyond_the_budget_before_its_first_cell():
    cells = [config(method="window", budget=budget) for budget in (60, 160, 64)]
    with pytest.raises(KvreproError, match="nothing was started") as caught:
        check_cells(cells)
    found = str(caught.value).splitlines()[1:]
    assert found == [
        f"{cell.cell_id}: problem chain-12-000: the prompt has 68 tokens, more than budget={cell.budget}; raise the "
        "budget"
        for cell in (cells[0], cells[2])
    ]


def test_a_dry_run_prints_the_values_of_the_run_and_what_the_budget_means(capsys):
    items = [part for name in ("method=rkv", "budget=192", 'options={"mix": 1}') for part in ("--set", name)]
    assert main(["run", "--set", "model=tiny-r1-llama", "--set", "benchmark=chain-12", *items, "--dry-run"]) == 0
    *shown, last, place = capsys.readouterr().out.splitlines()
    words = ["--set", "model=tiny-r1-llama", "--set", "benchmark=chain-12", *items, "--dry-run"]
    assert main(["run", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert yaml.safe_load("\n".join(shown)) == found["resolved"]
    assert last == found["budget_meaning"] and place == f"{found['cell_id']}: not run yet"
    assert last == (
        "protocol fair, budget 192: 192 slots remain after an eviction, 24 tokens later a row peaks at 216 slots"
    )
    assert "null" not in "".join(shown)
    assert found["resolved"]["options"]["mix"] == 1.0
    assert found["config"]["window"] is None
