"""Clocks, power and temperature of the first GPU, as nvidia-smi reports them."""

from __future__ import annotations

import shutil
import subprocess
import time

FIELDS = (
    *("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.draw", "power.limit", "temperature.gpu", "clocks_throttle_reasons.active"),
)
# asking takes a fraction of a second, so rows that follow one another closely share an answer
MAX_AGE_S = 3.0
_last: tuple[float, dict[str, str] | None] | None = None


def clocks(max_age_s: float = MAX_AGE_S) -> dict[str, str] | None:
    """What the driver says now, or said `max_age_s` seconds ago at most; None without it or where it hangs."""
    global _last
    # where it did not answer once it is not asked again: each time could take as long
    if _last is None or (_last[1] is not None and time.monotonic() - _last[0] > max_age_s):
        _last = time.monotonic(), _asked()
    return _last[1]


def _asked() -> dict[str, str] | None:
    if shutil.which("nvidia-smi") is None:
        return None
    # a driver that does not know the last field refuses the whole question
    for fields in (FIELDS, FIELDS[:-1]):
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader", "--id=0"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode == 0:
            return dict(zip(fields, done.stdout.strip().split(", "), strict=False))
    return None
