"""Where the time of a run goes: sections of a step, added up by name."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# the only clocks that measurements read, in seconds: `cpu` is processor time of all threads of this process, `thread`
# that of the calling thread
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time, "thread": time.thread_time}


class StageTimer:
    """Adds the seconds of sections to a mapping.

    On a CPU a clock is read. On a GPU a section is the time between two events in its stream, idle time included, and
    is read once the device has passed them: no step waits for the host's sake.

    Args:
        seconds: what is added to, by the sections' names; `vars(stats)` for the fields of a run's stats.
        device: where the work runs.
        clock: a name of `CLOCKS`, for a CPU. `thread` needs all work in one thread: with more it misses theirs.
    """

    def __init__(self, seconds: dict[str, float], device: torch.device, clock: str = "wall"):
        self.seconds, self.clock = seconds, clock
        self._now = CLOCKS[clock]
        self._event = self._stream = None
        if device.type == "cuda":
            import torch

            self._event, self._stream = partial(torch.cuda.Event, enable_timing=True), torch.cuda.current_stream(device)
        self._open: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    def add(self, name: str, seconds: float) -> None:
        """Add time that was measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Time a block under `name`."""
        if self._stream is None:
            started = self._now()
            yield
            self.add(name, self._now() - started)
            return
        first, last = (self._event() for _ in range(2))
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
        self.add(name, first.elapsed_time(last) / 1e3)
