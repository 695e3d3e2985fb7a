"""Where the time of a run goes: sections of a step, added up under the names of the run's stats."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .requests import RunStats


class StageTimer:
    """Adds the time of sections to fields of the stats, in seconds.

    On a CPU the wall clock is read. On a GPU a section is the time between two events in its stream, idle time
    included, and is read once the device has passed them: no step waits for the host's sake.

    Args:
        stats: what the seconds are added to.
        device: where the work runs.
    """

    def __init__(self, stats: RunStats, device: torch.device):
        self.stats = stats
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._open: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Time a block under `name`, a field of the stats."""
        if self._stream is None:
            started = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - started)
            return
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record(self._stream)
        yield
        last.record(self._stream)
        self._open.append((name, first, last))
        while self._open and self._open[0][2].query():
            self._settle_one()

    def settle(self) -> None:
        """Wait for the device and add what is still open."""
        while self._open:
            self._open[0][2].synchronize()
            self._settle_one()

    def _settle_one(self) -> None:
        name, first, last = self._open.popleft()
        self._add(name, first.elapsed_time(last) / 1e3)

    def _add(self, name: str, seconds: float) -> None:
        setattr(self.stats, name, getattr(self.stats, name) + seconds)
