"""Laps and peak memory of one process; needs the standard library and torch alone, so it runs in any environment."""

from __future__ import annotations

import re
import resource
import sys
import time
from pathlib import Path
from statistics import median

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Laps:
    """Wall and processor milliseconds between calls of `lap`.

    Processor time counts all threads of this process. Where other work shares the cores, it still says what a step
    costs, which the wall clock does not; threads that spin while they wait spoil it, so measure it with one thread.

    Args:
        device: a GPU is waited for before a clock is read.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.start()

    def start(self) -> None:
        """Begin a stretch that the next `lap` ends."""
        self._at = self._now()

    def lap(self) -> None:
        """End a stretch and begin the next."""
        now = self._now()
        self.wall.append(1e3 * (now[0] - self._at[0]))
        self.cpu.append(1e3 * (now[1] - self._at[1]))
        self._at = now

    def _now(self) -> tuple[float, float]:
        if self.device is not None and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()

    def drop(self, n: int) -> None:
        """Forget the first laps, which warmed up."""
        del self.wall[:n], self.cpu[:n]

    def medians(self) -> dict[str, float]:
        """Median lap by either clock."""
        return {"wall": median(self.wall), "cpu": median(self.cpu)}


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
