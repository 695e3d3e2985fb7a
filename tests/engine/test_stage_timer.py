"""Sections of a run: wall clock on a CPU, events in the stream on a GPU (a stand-in for its clock here)."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from kvrepro.engine import stage_timer
from kvrepro.engine.requests import RunStats
from kvrepro.engine.stage_timer import StageTimer


class Device:
    """A GPU whose clock moves when told, and whose events pass when the host has waited for them."""

    def __init__(self):
        self.now_ms, self.passed_ms, self.waits = 0.0, -1.0, 0

    def event(self, **options):
        assert options == {"enable_timing": True}
        return Event(self)


class Event:
    def __init__(self, gpu: Device):
        self.gpu, self.at = gpu, None

    def record(self, stream):
        self.at = self.gpu.now_ms

    def query(self) -> bool:
        return self.at <= self.gpu.passed_ms

    def synchronize(self):
        self.gpu.waits += 1
        self.gpu.passed_ms = max(self.gpu.passed_ms, self.at)

    def elapsed_time(self, other: Event) -> float:
        assert self.query() and other.query(), "read before the device has passed it"
        return other.at - self.at


def test_a_cpu_section_adds_wall_time_to_its_own_field(monkeypatch):
    clock = iter([1.0, 3.5, 10.0, 10.25])
    monkeypatch.setitem(stage_timer.CLOCKS, "wall", lambda: next(clock))
    stats = RunStats()
    timer = StageTimer(vars(stats), torch.device("cpu"))
    for _ in range(2):
        with timer.section("forward_s"):
            pass
    timer.settle()
    assert (stats.forward_s, stats.decode_s) == (2.75, 2.75)


def test_the_clock_of_a_thread_leaves_other_threads_and_waiting_out():
    def spin():
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:
            sum(range(1000))

    found = {clock: StageTimer({}, torch.device("cpu"), clock) for clock in ("wall", "thread")}
    other = threading.Thread(target=spin)
    with found["wall"].section("x"), found["thread"].section("x"):
        other.start()
        other.join()
    assert found["wall"].seconds["x"] >= 0.2 > found["thread"].seconds["x"]


def test_a_gpu_section_is_read_when_the_device_has_passed_it(monkeypatch):
    gpu, stats = Device(), RunStats()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "stream")
    timer = StageTimer(vars(stats), torch.device("cuda"))
    for name, ms in (("forward_s", 5.0), ("sample_s", 2.0), ("forward_s", 7.0)):
        with timer.section(name):
            gpu.now_ms += ms
    assert stats.decode_s == 0 and gpu.waits == 0, "nothing waits inside a step"
    gpu.passed_ms = 5.0
    with timer.section("host_s"):
        gpu.now_ms += 1
    assert stats.forward_s == pytest.approx(5e-3) and stats.sample_s == 0 and gpu.waits == 0
    timer.settle()
    assert (stats.forward_s, stats.sample_s, stats.host_s) == pytest.approx((12e-3, 2e-3, 1e-3))
    assert gpu.waits
