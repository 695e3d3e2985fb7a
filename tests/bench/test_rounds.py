"""What rounds come to: intervals on made numbers, ratios of a panel's ends, and the verdict that follows."""

from __future__ import annotations

import math

import pytest

from kvrepro.bench.rounds import Spread, ends, panel_verdict, ratios, verdict
from kvrepro.runs.throughput import ALONE, BUSY, FALLS, LEVEL, MIXED, RISES


def test_an_interval_is_that_of_student_on_logarithms():
    # logarithms 0, 1, 2, 3, 4: mean 2, standard error sqrt(2.5 / 5), and 2.7764 is the quantile of four degrees
    found = Spread.of([math.exp(i) for i in range(5)])
    assert found.median == pytest.approx(math.exp(2))
    assert math.log(found.hi) == pytest.approx(2 + 2.7764451 * math.sqrt(0.5))
    assert math.log(found.lo) == pytest.approx(2 - 2.7764451 * math.sqrt(0.5))


def test_a_disturbed_round_moves_the_median_little_and_widens_the_interval():
    quiet, disturbed = Spread.of([100, 101, 99, 100, 102]), Spread.of([100, 101, 99, 100, 51])
    assert abs(disturbed.median - quiet.median) <= 1
    assert disturbed.hi / disturbed.lo > 5 * quiet.hi / quiet.lo - 4


def test_the_median_lies_in_its_interval_whatever_the_rounds():
    # of many rounds one half far below, the mean is far from the median
    found = Spread.of([1.0] * 9 + [1e-9] * 8)
    assert found.lo <= found.median <= found.hi == 1.0


def test_a_slow_round_changes_no_ratio():
    assert ratios([2.0, 40.0], [1.0, 20.0]) == [2.0, 2.0]


def test_ends_are_the_smallest_and_the_largest_budget_in_any_order_of_cells():
    tps = {("full", None): [1.0, 1.0], ("dynts", 300): [2.0, 4.0], ("dynts", 100): [6.0, 6.0], ("dynts", 200): [9, 9]}
    found = ends(tps)["dynts"]
    assert (found["smallest"], found["largest"]) == (100, 300)
    assert found["smallest_vs_largest"] == vars(Spread.of([3.0, 1.5]))


def test_every_method_has_ends_and_a_verdict_of_its_own():
    fast, slow = [2.0, 2.02, 1.98, 2.0, 2.01], [1.0, 1.01, 0.99, 1.0, 1.0]
    tps = {("window", 100): fast, ("window", 200): slow, ("dynts", 100): slow, ("dynts", 200): fast}
    found = ends(tps)
    assert {label: method["verdict"] for label, method in found.items()} == {"window": FALLS, "dynts": RISES}
    assert found["window"]["smallest_vs_largest"]["median"] > 1 > found["dynts"]["smallest_vs_largest"]["median"]


def test_a_single_budget_is_set_against_the_full_cache():
    found = ends({("window", 100): [4.0, 4.0], ("full", None): [2.0, 2.0]})["window"]
    assert (found["smallest"], found["largest"], found["smallest_vs_largest"]["median"]) == (100, None, 2.0)


def test_what_stands_alone_has_no_ends():
    assert ends({("full", None): [2.0, 2.0]}) == {}
    alone = {"smallest": 100, "largest": None, "smallest_vs_largest": None, "verdict": ALONE}
    assert ends({("window", 100): [2.0, 2.0]}) == {"window": alone}


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [([], ALONE), ([FALLS, FALLS], FALLS), ([FALLS, LEVEL], MIXED), ([FALLS, BUSY], BUSY), ([ALONE], ALONE)],
)
def test_a_panel_goes_where_its_methods_go(verdicts, expected):
    assert panel_verdict(verdicts) == expected


@pytest.mark.parametrize(
    ("lo", "hi", "expected"),
    [
        (1.01, 1.9, FALLS),
        (0.5, 0.99, RISES),
        (0.97, 1.03, LEVEL),
        # ordered, however little: it falls
        (1.001, 1.01, FALLS),
        (0.9, 1.04, BUSY),
        (0.96, 1.2, BUSY),
        (0.5, 2.0, BUSY),
    ],
)
def test_a_verdict_needs_an_interval_that_orders_or_is_narrow_about_one(lo, hi, expected):
    assert verdict(Spread(math.sqrt(lo * hi), lo, hi)) == expected


@pytest.mark.parametrize(
    ("rounds", "expected"),
    [
        ([1.5, 1.52, 1.48, 1.51, 1.5], FALLS),
        ([0.8, 0.82, 0.81, 0.79, 0.8], RISES),
        ([1.0, 1.01, 0.99, 1.0, 1.005], LEVEL),
        # a panel of a shared machine, as it was found
        ([0.71, 1.78, 1.1, 0.9, 1.2], BUSY),
        # one disturbed round of five takes the order away
        ([1.1, 1.12, 1.09, 1.11, 0.6], BUSY),
    ],
)
def test_verdicts_of_made_rounds(rounds, expected):
    assert verdict(Spread.of(rounds)) == expected
