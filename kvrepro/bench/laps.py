"""What every measurement is made of: laps by two clocks, works that take turns, the peak memory of one process.

Needs the standard library, and torch on a GPU, so it runs in any environment. The clocks are the engine's.
"""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from ..engine.stage_timer import CLOCKS

if TYPE_CHECKING:
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
            import torch

            torch.cuda.synchronize(self.device)
        return CLOCKS["wall"](), CLOCKS["cpu"]()

    def medians(self, warm_up: int = 0) -> dict[str, float]:
        """Median lap by either clock, without the first ones, which warmed up."""
        return {"wall": median(self.wall[warm_up:]), "cpu": median(self.cpu[warm_up:])}


def timed(work: Callable[[], Any], device: torch.device | None = None) -> dict[str, float]:
    """Milliseconds of one call by either clock."""
    laps = Laps(device)
    work()
    laps.lap()
    return laps.medians()


def in_turn(
    works: Mapping[Any, Callable[[], Any]], rounds: int, until: float = float("inf")
) -> Iterator[dict[Any, Any]]:
    """What each work found, round by round; they take turns, so that a slow moment of the machine falls on all.

    Args:
        until: a time of `perf_counter` after which nothing starts; the round that it falls into is dropped.
    """
    for _ in range(rounds):
        found = {}
        for name, work in works.items():
            if time.perf_counter() > until:
                return
            found[name] = work()
        yield found


def median_ratio(own: Sequence[float], base: Sequence[float]) -> float:
    """Median of the ratios within a round, from which the machine's slow moments have gone."""
    return median(a / b for a, b in zip(own, base, strict=False))


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
