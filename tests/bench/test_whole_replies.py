"""Method costs: every method follows the same tokens, evicts at the same steps, and is set against `window`."""

from __future__ import annotations

import itertools

import pytest

import kvrepro
from kvrepro.bench.whole_replies import CostSetting, measure_costs, method_options
from kvrepro.engine.stage_timer import CLOCKS
from kvrepro.errors import KvreproError
from kvrepro.methods.table import METHODS, create_method, method_class

SMALL = CostSetting(rows=3, prompt_tokens=20, new_tokens=60, budget=48, window=16, evict_every=12)


@pytest.fixture(scope="module")
def tiny():
    return kvrepro.load_model(kvrepro.model_entry("tiny-r1-llama"))


def test_costs_are_those_of_a_run_with_evictions_and_relative_to_window(tiny):
    rows = {row["method"]: row for row in measure_costs(*tiny, ["h2o", "dynts"], SMALL, repeats=2)}
    assert list(rows) == ["window", "h2o", "dynts"]
    assert rows["window"]["step_ratio"] == 1.0
    for row in rows.values():
        assert row["step_ms"] > 0 and row["decode_tps"] > 0
        assert 0 < row["evict_share"] < 1 and row["evict_ms"] > 0


def test_costs_are_read_from_the_clock_that_is_asked_for(tiny, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setitem(CLOCKS, "thread", lambda: float(next(ticks)))
    (row,) = measure_costs(*tiny, ["window"], SMALL, repeats=1, clock="thread")
    # a tick for the model and one for scoring
    assert row["step_ms"] == 2000


def test_an_oracle_has_no_cost_of_its_own(tiny):
    with pytest.raises(KvreproError, match="oracle_future looks into a finished trace"):
        measure_costs(*tiny, ["oracle_future"], SMALL, repeats=1)


def test_the_default_setting_fits_every_method_that_shares_a_window():
    s = CostSetting()
    for name in METHODS:
        if name in ("full", "dynts_nolocal") or set(method_class(name).needs) - {"separators"}:
            continue
        options = method_options(name, s) | ({"separators": (1,)} if "separators" in method_class(name).needs else {})
        create_method(name, s.budget, s.window, evict_every=s.evict_every, protocol="fair", **options)
