"""How busy other processes keep the machine while something is measured."""

from __future__ import annotations

import time

import psutil


class MachineLoad:
    """Shares of the machine's cores, 0 to 1, that others kept busy between calls of `lap`."""

    def __init__(self) -> None:
        self.shares: list[tuple[float, float]] = []
        self._at = self._now()

    def lap(self, least_s: float = 0.0) -> None:
        """End a stretch and begin the next; one shorter than `least_s` goes on, for the system counts in 10 ms."""
        now = self._now()
        total, idle, own = (new - old for new, old in zip(now, self._at, strict=True))
        if total <= 0 or total / psutil.cpu_count() < least_s:
            return
        self.shares.append((min(1.0, max(0.0, (total - idle - own) / total)), total))
        self._at = now

    def summary(self) -> dict[str, float]:
        """`mean` over all time and `max` of the stretches; 0 where none was long enough to tell."""
        total = sum(weight for _, weight in self.shares)
        mean = sum(share * weight for share, weight in self.shares) / total if total else 0.0
        return {"mean": round(mean, 3), "max": round(max((share for share, _ in self.shares), default=0.0), 3)}

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Seconds of all cores: all, idle, and of this process."""
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        # what a guest took is counted as the user's as well
        guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        return sum(times) - guest, idle, time.process_time()
