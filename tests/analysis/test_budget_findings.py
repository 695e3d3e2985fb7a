"""Sentences on a panel: what its budgets cost and gain, or why that is not known."""

from __future__ import annotations

import json

import pytest

from kvrepro.analysis.budget_findings import (
    PanelFinding,
    budget_findings,
    measured_panels,
    pass_at_1_half,
    throughput_half,
    throughput_verdict,
)
from kvrepro.analysis.method_table import ScoredCell
from kvrepro.runs.config import CellConfig
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.throughput import Panel

N = 20


def cell(budget, right, n=N):
    """A cell whose first `right` of `n` problems are right."""
    sizes = {} if budget is None else {"method": "dynts", "budget": budget, "window": 32, "ratio": 0.75}
    score = 100 * right / n
    row = {"pass_at_1": score, "pass_at_1_lo": score - 5, "pass_at_1_hi": score + 5}
    config = CellConfig("tiny-r1-llama", "chain-12", **sizes)
    return ScoredCell(config, row, {f"p{i}": float(i < right) for i in range(n)})


def measured(verdict, *tps, full=1000.0, budgets=(160, 200, 240), ends=(1.5, 1.4, 1.6), load=(0.03, 0.1)):
    """A panel of dynts at these budgets and speeds, every interval 10 % wide to each side."""
    found = {}
    for budget, value in zip((*budgets[: len(tps)], None), (*tps, full), strict=True):
        if value is None:
            continue
        row = {"method": "full" if budget is None else "dynts", "budget": budget}
        for name, middle in (("decode_tps", value), ("tps_vs_full", full and value / full)):
            ends_of = (middle, 0.9 * middle, 1.1 * middle) if middle else (None, None, None)
            row |= {name: ends_of[0], f"{name}_lo": ends_of[1], f"{name}_hi": ends_of[2]}
        found[f"m/b/{budget}"] = row
    between = dict(zip(("median", "lo", "hi"), ends, strict=True))
    return {
        "verdict": verdict,
        "cells": found,
        "smallest_vs_largest": between,
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


def test_a_single_problem_has_no_interval():
    text = pass_at_1_half(cell(None, 1, n=1), [cell(160, 0, n=1), cell(200, 1, n=1)], 2)
    assert text == "a budget of 160 tokens costs 100.0 points of the full cache's 100.0 on a single problem"


def test_throughput_that_falls_names_both_ends_and_both_ratios():
    assert throughput_half(measured("falls", 1800.0, 1500.0, 1200.0), "dynts") == (
        "throughput falls from 1,800 tokens/s at 160 to 1,200 at 240 (ratio 1.50 [1.40, 1.60]) and is 1.80 [1.62, "
        "1.98] times the full cache's at 160"
    )


@pytest.mark.parametrize(
    ("verdict", "words"), [("rises", "does not fall but rises from"), ("level", "does not fall, it goes from")]
)
def test_throughput_that_does_not_fall_says_so(verdict, words):
    assert throughput_half(measured(verdict, 900.0, 900.0, 1000.0), "dynts").startswith(f"throughput {words} 900 ")


def test_a_busy_machine_gives_no_number_but_its_load():
    text = throughput_half(measured("busy", 1800.0, 1200.0, load=(0.47, 0.9)), "dynts")
    assert text == ("throughput not measured: machine busy (other processes kept 47 % of the cores busy, 90 % at most)")


def test_what_was_not_measured_says_so():
    assert throughput_half(None, "dynts") == "throughput not measured"
    assert throughput_half(measured("falls", 1800.0, 1200.0), "window") == "throughput not measured for window"


def test_one_budget_is_set_against_the_full_cache_and_no_full_cache_against_nothing():
    assert throughput_half(measured("falls", 1800.0), "dynts") == (
        "throughput is 1,800 tokens/s at 160, 1.80 [1.62, 1.98] times the full cache's"
    )
    assert throughput_half(measured("falls", 1800.0, 1200.0, full=None), "dynts").endswith("(ratio 1.50 [1.40, 1.60])")


def test_panels_are_counted_by_which_way_they_go():
    fall, rise = measured("falls", 1800.0, 1200.0), measured("rises", 900.0, 1000.0, ends=(0.9, 0.8, 0.95))
    busy = measured("busy", 1.0, 2.0, load=(0.47, 0.9))
    assert throughput_verdict([fall, fall]) == (
        "Throughput falls with the budget in 2 of 2 panels (the smallest 1.50 times the largest, 1.80 times the full "
        "cache). Other processes kept 3 % of the cores busy, 10 % at most."
    )
    assert throughput_verdict([fall, rise, busy, None]) == (
        "Throughput falls with the budget in 1 of 4 panels (the smallest 0.90 to 1.50 times the largest, 0.90 to 1.80 "
        "times the full cache); rises in 1; not measured, machine busy, in 1; not measured in 1. Other processes kept "
        "18 % of the cores busy, 90 % at most."
    )


def test_panels_without_a_number_are_counted_too():
    assert throughput_verdict([None, None]) == "Throughput not measured in 2 of 2 panels."
    busy = measured("busy", 1.0, 2.0, load=(0.47, 0.9))
    assert throughput_verdict([busy]).startswith("Throughput not measured, machine busy, in 1 of 1 panels. Other ")


def test_a_single_budget_has_no_largest():
    assert "(the smallest 1.80 times the full cache)" in throughput_verdict([measured("falls", 1800.0)])


def test_a_finding_is_one_sentence_of_both_halves():
    found = PanelFinding("tiny-r1-llama", "chain-12", "it costs", "it falls")
    assert found.sentence == "Tiny-R1-Llama, chain-12: it costs; it falls."
    assert not found.is_busy


def test_a_profile_without_results_has_a_sentence_per_panel():
    found = budget_findings(load_profile("tiny"))
    assert len(found) == len(measured_panels(load_profile("tiny")))
    assert {panel.sentence.split(": ")[1] for panel in found} == {
        "none of 6 budgets is finished; throughput not measured."
    }


def test_throughput_of_cells_that_are_gone_is_not_used():
    panel = Panel.all_of(load_profile("tiny"))[0]
    panel.path.parent.mkdir(parents=True)
    panel.path.write_text(json.dumps(measured("falls", 1800.0, 1200.0)))
    assert measured_panels(load_profile("tiny"))[panel.name] is None
