"""Sentences on a panel: what its budgets cost and gain, or why that is not known."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from kvrepro.analysis.budget_findings import (
    PanelFinding,
    budget_findings,
    drawn_panels,
    drawn_throughput,
    pass_at_1_half,
    throughput_half,
    throughput_verdict,
)
from kvrepro.analysis.method_table import ScoredCell
from kvrepro.runs.config import CellConfig
from kvrepro.runs.folder import MANIFEST, CellFolder
from kvrepro.runs.profiles import Profile, load_profile
from kvrepro.runs.throughput import Panel, ThroughputSettings

from ..cells import SETTINGS, WINDOW, build, write_finished

N = 20


def cell(budget, right, n=N):
    """A cell whose first `right` of `n` problems are right."""
    sizes = {} if budget is None else {"method": "dynts", "budget": budget, "window": 32, "ratio": 0.75}
    score = 100 * right / n
    row = {"pass_at_1": score, "pass_at_1_lo": score - 5, "pass_at_1_hi": score + 5}
    config = CellConfig("tiny-r1-llama", "chain-12", **sizes)
    return ScoredCell(config, row, {f"p{i}": float(i < right) for i in range(n)})


def found(verdict, *tps, full=1000.0, budgets=(160, 200, 240), ends=(1.5, 1.4, 1.6), load=(0.03, 0.1)):
    """The throughput of dynts at these budgets and speeds, every interval 10 % wide to each side."""
    rows = []
    for budget, value in zip(budgets[: len(tps)], tps, strict=True):
        row = {"budget": budget}
        for name, middle in (("decode_tps", value), ("tps_vs_full", full and value / full)):
            span = (middle, 0.9 * middle, 1.1 * middle) if middle else (None, None, None)
            row |= dict(zip((name, f"{name}_lo", f"{name}_hi"), span, strict=True))
        rows.append(row)
    return {
        "verdict": verdict,
        "smallest": budgets[0],
        "largest": budgets[len(tps) - 1] if len(tps) > 1 else None,
        "smallest_vs_largest": ends and dict(zip(("median", "lo", "hi"), ends, strict=True)),
        "cells": rows,
        "load": dict(zip(("mean", "max"), load, strict=True)),
    }


def test_a_loss_is_told_with_its_interval_and_where_it_ends():
    text = pass_at_1_half(cell(None, 20), [cell(160, 5), cell(200, 18), cell(240, 20)], 3)
    assert text == (
        "a budget of 160 tokens costs 75.0 points of Pass@1 [54.2, 95.8] against the full cache's 100.0, from 200 on "
        "no loss is seen"
    )


@pytest.mark.parametrize(
    ("right", "end"),
    [
        ((5, 8, 20), ", at 240 no loss is seen"),
        ((5, 20, 8), ", 240 still costs 60.0 points of Pass@1 [36.5, 83.5]"),
        # also where the smallest budget shows none
        ((20, 20, 8), ", 240 still costs 60.0 points of Pass@1 [36.5, 83.5]"),
        # a dip between is a loss too
        ((5, 20, 5, 20), ", at 280 no loss is seen"),
    ],
)
def test_no_loss_is_seen_only_where_none_comes_after(right, end):
    cells = [cell(160 + 40 * i, n) for i, n in enumerate(right)]
    assert pass_at_1_half(cell(None, 20), cells, len(cells)).endswith(f"against the full cache's 100.0{end}")


def test_what_costs_nothing_and_what_gains_say_so():
    nothing = pass_at_1_half(cell(None, 20), [cell(160, 19), cell(200, 20)], 2)
    assert nothing.startswith("a budget of 160 tokens costs nothing that is seen, 5.0 points of Pass@1 [-5.5, 15.5],")
    assert "no loss" not in nothing
    gain = pass_at_1_half(cell(None, 5), [cell(160, 20)], 1)
    assert gain == "a budget of 160 tokens gains 75.0 points of Pass@1 [54.2, 95.8] against the full cache's 25.0"


def test_one_budget_says_nothing_of_larger_ones():
    text = pass_at_1_half(cell(None, 20), [cell(160, 5)], 1)
    assert text == "a budget of 160 tokens costs 75.0 points of Pass@1 [54.2, 95.8] against the full cache's 100.0"


def test_what_is_not_finished_is_told():
    assert pass_at_1_half(cell(None, 20), [], 6) == "none of 6 budgets is finished"
    assert pass_at_1_half(cell(None, 20), [cell(160, 5)], 6).endswith(" (1 of 6 budgets finished)")
    assert pass_at_1_half(None, [cell(160, 5), cell(200, 20)], 2) == (
        "Pass@1 is 25.0 [20.0, 30.0] at 160 tokens and 100.0 [95.0, 105.0] at 200 tokens, the full cache is "
        "not finished"
    )


def test_a_panel_without_a_full_cache_says_so():
    text = pass_at_1_half(None, [cell(160, 5)], 1, has_full=False)
    assert text == "Pass@1 is 25.0 [20.0, 30.0] at 160 tokens, there is no full cache"


def test_cells_of_other_problems_than_the_full_cache_are_not_compared_with_it():
    cells = [cell(160, 5, n=N - 1), cell(200, 20)]
    assert pass_at_1_half(cell(None, 20), cells, 2) == (
        "Pass@1 is 26.3 [21.3, 31.3] at 160 tokens and 100.0 [95.0, 105.0] at 200 tokens, not on the full cache's "
        "problems"
    )


def test_a_single_problem_has_no_interval():
    text = pass_at_1_half(cell(None, 1, n=1), [cell(160, 0, n=1), cell(200, 1, n=1)], 2)
    assert text == "a budget of 160 tokens costs 100.0 points of the full cache's 100.0 on a single problem"


def test_a_few_problems_are_said_to_say_nothing():
    text = pass_at_1_half(cell(None, 4, n=4), [cell(160, 0, n=4), cell(200, 4, n=4)], 2)
    assert text.startswith("4 problems say nothing: on them a budget of 160 tokens costs nothing that is seen, 100.0 ")


def test_throughput_that_falls_names_both_ends_and_both_ratios():
    assert throughput_half(found("falls", 1800.0, 1500.0, 1200.0)) == (
        "throughput falls from 1,800 tokens/s at 160 to 1,200 at 240 (ratio 1.50 [1.40, 1.60]) and is 1.80 [1.62, "
        "1.98] times the full cache's at 160"
    )


@pytest.mark.parametrize(
    ("verdict", "words"), [("rises", "does not fall but rises from"), ("level", "does not fall, it goes from")]
)
def test_throughput_that_does_not_fall_says_so(verdict, words):
    assert throughput_half(found(verdict, 900.0, 900.0, 1000.0)).startswith(f"throughput {words} 900 ")


def test_what_cannot_be_ordered_says_whether_the_machine_was_busy():
    busy, noisy = found("busy", 1800.0, 1200.0, load=(0.47, 0.9)), found("busy", 1800.0, 1200.0, load=(0.02, 0.9))
    assert throughput_half(busy) == "throughput not measured: machine busy (load 47 %)"
    assert throughput_half(noisy) == "throughput not measured: too noisy to order its ends"
    assert throughput_half(None) == "throughput not measured"


def test_one_budget_is_set_against_the_full_cache_and_no_full_cache_against_nothing():
    assert throughput_half(found("falls", 1800.0)) == (
        "throughput is 1,800 tokens/s at 160, 1.80 [1.62, 1.98] times the full cache's"
    )
    assert throughput_half(found("falls", 1800.0, 1200.0, full=None)).endswith("(ratio 1.50 [1.40, 1.60])")
    alone = found("alone", 1800.0, full=None, ends=None)
    assert throughput_half(alone) == "throughput is 1,800 tokens/s at 160"
    assert throughput_verdict([alone]) == (
        "Throughput has nothing to be compared with in 1 of 1 panels. Other processes kept 3 % of the cores busy, "
        "10 % at most."
    )


def test_panels_are_counted_by_which_way_they_go():
    fall, rise = found("falls", 1800.0, 1200.0), found("rises", 900.0, 1000.0, ends=(0.9, 0.8, 0.95))
    busy, noisy = found("busy", 1.0, 2.0, load=(0.47, 0.9)), found("busy", 1.0, 2.0)
    assert throughput_verdict([fall, fall]) == (
        "Throughput falls with the budget in 2 of 2 panels (the smallest 1.50 times the largest, 1.80 times the full "
        "cache). Other processes kept 3 % of the cores busy, 10 % at most."
    )
    assert throughput_verdict([noisy, fall, rise, busy, None]) == (
        "Throughput falls with the budget in 1 of 5 panels (in all that are ordered the smallest 0.90 to 1.50 times "
        "the largest, 0.90 to 1.80 times the full cache); rises in 1; not measured, machine busy, in 1; not measured, "
        "too noisy to order its ends, in 1; not measured in 1. Other processes kept 14 % of the cores busy, 90 % at "
        "most."
    )


def test_panels_without_a_number_are_counted_too():
    assert throughput_verdict([None, None]) == "Throughput not measured in 2 of 2 panels."
    busy = found("busy", 1.0, 2.0, load=(0.47, 0.9))
    assert throughput_verdict([busy]).startswith("Throughput not measured, machine busy, in 1 of 1 panels. Other ")


def test_a_single_budget_has_no_largest():
    assert "(the smallest 1.80 times the full cache)" in throughput_verdict([found("falls", 1800.0)])


def test_a_finding_is_one_sentence_of_both_halves():
    finding = PanelFinding("tiny-r1-llama", "chain-12", (), "it costs", "it falls")
    assert finding.sentence == "Tiny-R1-Llama, chain-12: it costs; it falls."


def test_a_profile_without_results_has_a_sentence_per_panel():
    profile = load_profile("tiny")
    findings = budget_findings(profile)
    assert [(each.model, each.benchmark) for each in findings] == list(drawn_throughput(profile))
    assert {each.sentence.split(": ")[1] for each in findings} == {
        f"none of {n} budgets is finished; throughput not measured." for n in (4, 6)
    }


def test_of_variants_the_first_cell_of_a_budget_is_told_of():
    full = build(SETTINGS)
    h2o = {**WINDOW, "method": "h2o", "ratio": None}
    changes = ({"budget": 120}, {}, {"window": 16}, {"budget": 100, "options": {"pin_question": True}})
    cells = [build(h2o, **change) for change in changes]
    profile = Profile("mine", "mine", (full, *cells, build(WINDOW)))
    assert drawn_panels(profile) == {("tiny-r1-llama", "chain-12"): (cells[1], cells[0])}
    assert drawn_panels(Profile("mine", "mine", (full,))) == {}


def spread(ratio):
    return {"median": ratio, "lo": 0.9 * ratio, "hi": 1.1 * ratio}


@pytest.fixture
def two_methods():
    """A profile of two methods that is measured: `window` first, whose throughput goes another way than dynts'."""
    sizes = [{"budget": budget, "window": 32, "ratio": 0.75} for budget in (160, 240)]
    cells = [build({**SETTINGS, "method": method, **size}) for method in ("window", "dynts") for size in sizes]
    profile = Profile("mine", "mine", tuple(cells), throughput=ThroughputSettings())
    for config in cells:
        write_finished("mine", config)
    rows = {}
    for config, tps in zip(cells, (9000.0, 3000.0, 4000.0, 5000.0), strict=True):
        row = {name: getattr(config, name) for name in ("method", "label", "budget")} | {"ended": None}
        rows[config.cell_id] = row | dict.fromkeys(("decode_tps", "decode_tps_lo", "decode_tps_hi"), tps)
        rows[config.cell_id] |= dict.fromkeys(("tps_vs_full", "tps_vs_full_lo", "tps_vs_full_hi"))
    ends = {"smallest": 160, "largest": 240}
    methods = {
        "window": {**ends, "smallest_vs_largest": spread(3.0), "verdict": "busy"},
        "dynts": {**ends, "smallest_vs_largest": spread(0.8), "verdict": "rises"},
    }
    (panel,) = Panel.all_of(profile)
    panel.path.parent.mkdir(parents=True)
    measured = {"cells": rows, "methods": methods, "verdict": "busy", "load": {"mean": 0.0, "max": 0.0}}
    panel.path.write_text(json.dumps({**measured, "settings": asdict(panel.settings)}))
    return profile


def test_the_drawn_methods_own_ends_and_verdict_are_told(two_methods):
    ((key, throughput),) = drawn_throughput(two_methods).items()
    assert key == ("tiny-r1-llama", "chain-12")
    assert throughput_half(throughput) == (
        "throughput does not fall but rises from 4,000 tokens/s at 160 to 5,000 at 240 (ratio 0.80 [0.72, 0.88])"
    )
    assert throughput_verdict([throughput]).startswith(
        "Throughput falls with the budget in 0 of 1 panels (the smallest 0.80 times the largest); rises in 1. "
    )


def test_throughput_of_cells_that_are_gone_is_not_used(two_methods):
    CellFolder.of("mine", two_methods.cells[0]).path.joinpath(MANIFEST).unlink()
    assert list(drawn_throughput(two_methods).values()) == [None]
