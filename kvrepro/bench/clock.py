"""Clocks and memory of one process; nothing but the standard library, so that it runs in any environment."""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Laps:
    """Wall and processor milliseconds between calls of `lap`.

    Processor time counts all threads of this process. Where other work shares the cores, it still says what a step
    costs, which the wall clock does not; threads that spin while they wait spoil it, so measure it with one thread.
    """

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.start()

    def start(self) -> None:
        """Begin a stretch that the next `lap` ends."""
        self._at = time.perf_counter(), time.process_time()

    def lap(self) -> None:
        """End a stretch and begin the next."""
        now = time.perf_counter(), time.process_time()
        self.wall.append(1e3 * (now[0] - self._at[0]))
        self.cpu.append(1e3 * (now[1] - self._at[1]))
        self._at = now

    def medians(self) -> dict[str, float]:
        """Median lap by either clock."""
        return {"wall": _median(self.wall), "cpu": _median(self.cpu)}


def _median(values: list[float]) -> float:
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def reset_peak_rss() -> bool:
    """Let the peak of resident memory begin anew; False where the system cannot (the peak is then the process's)."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_rss_bytes() -> int:
    """Most resident memory since the last reset."""
    if STATUS.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", STATUS.read_text())):
        return int(found[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
