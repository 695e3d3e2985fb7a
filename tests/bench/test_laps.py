"""What every measurement is made of: laps without their warm-up, works in turn, ratios within a round."""

from __future__ import annotations

import time

import pytest

from kvrepro.bench.laps import Laps, in_turn, median_ratio, timed


def test_medians_leave_the_warm_up_out():
    laps = Laps()
    laps.wall, laps.cpu = [90.0, 1.0, 3.0, 2.0], [50.0, 4.0, 4.0, 5.0]
    assert laps.medians(1) == {"wall": 2.0, "cpu": 4.0}


def test_a_call_is_timed_by_both_clocks_in_milliseconds():
    found = timed(lambda: time.sleep(0.02))
    assert found["wall"] >= 20 > found["cpu"]


def test_works_take_turns():
    calls = []
    works = {name: lambda name=name: calls.append(name) or len(calls) for name in ("a", "b")}
    assert list(in_turn(works, 2)) == [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert calls == ["a", "b", "a", "b"]


def test_a_round_that_the_end_cuts_is_dropped():
    until = time.perf_counter() + 0.5
    works = {"quick": lambda: 1, "slow": lambda: time.sleep(0.3)}
    assert len(list(in_turn(works, 9, until))) in (1, 2)
    assert list(in_turn(works, 9, until)) == []


def test_a_slow_round_changes_no_ratio():
    assert median_ratio([2.0, 40.0, 2.0], [1.0, 20.0, 1.0]) == pytest.approx(2)
