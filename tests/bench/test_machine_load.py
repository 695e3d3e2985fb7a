"""The share of the cores that others keep busy, from counters that are made up here."""

from __future__ import annotations

import pytest

from kvrepro.bench.machine_load import MachineLoad


@pytest.fixture
def load(monkeypatch):
    """A meter whose counters (all, idle, own; seconds of four cores) are set by the test."""
    monkeypatch.setattr("psutil.cpu_count", lambda: 4)
    at = [(0.0, 0.0, 0.0)]
    monkeypatch.setattr(MachineLoad, "_now", staticmethod(lambda: at[-1]))
    meter = MachineLoad()
    meter.at = at
    return meter


def test_what_is_neither_idle_nor_ours_is_others(load):
    load.at.append((8.0, 4.0, 2.0))
    load.lap()
    load.at.append((16.0, 12.0, 2.0))
    load.lap()
    # 2 of 8 seconds, then none
    assert load.summary() == {"mean": 0.125, "max": 0.25}


def test_a_stretch_that_is_too_short_to_tell_goes_on(load):
    load.at.append((1.0, 0.0, 0.0))
    load.lap(least_s=0.5)
    assert load.summary() == {"mean": 0.0, "max": 0.0}
    load.at.append((4.0, 3.0, 0.0))
    load.lap(least_s=0.5)
    assert load.summary() == {"mean": 0.25, "max": 0.25}


def test_the_real_counters_give_a_share():
    meter = MachineLoad()
    while not meter.shares:
        sum(range(10_000))
        meter.lap(0.05)
    assert 0 <= meter.summary()["mean"] <= 1
