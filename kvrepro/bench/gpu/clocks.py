"""Clocks, power and temperature of torch's current GPU, and who else computes on it, as nvidia-smi reports them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from functools import cache
from threading import Thread

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
        # a driver that does not know the last field refuses the whole question
        said = _asked("gpu", FIELDS) or _asked("gpu", FIELDS[:-1])
        _last = time.monotonic(), said[0] if said else None
    return _last[1]


def clocks_under_load(work: Callable[[], object]) -> dict[str, str] | None:
    """What the driver says while `work` is repeated, whose time nobody takes."""
    said: list[dict[str, str] | None] = []
    asking = Thread(target=lambda: said.append(clocks(max_age_s=0.0)))
    asking.start()
    while asking.is_alive():
        work()
    return said[0] if said else None


def other_processes() -> list[str] | None:
    """Memory of every other process that computes on this GPU; None where the driver does not say."""
    said = _asked("compute-apps", ("pid", "used_memory"))
    return None if said is None else [one["used_memory"] for one in said if one["pid"] != str(os.getpid())]


@cache
def _gpu() -> str:
    """As nvidia-smi calls it, which does not heed CUDA_VISIBLE_DEVICES."""
    import torch

    if not torch.cuda.is_available():
        return "0"
    return f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"


def _asked(what: str, fields: tuple[str, ...]) -> list[dict[str, str]] | None:
    """The fields of every line of the answer."""
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", f"--query-{what}={','.join(fields)}", "--format=csv,noheader", f"--id={_gpu()}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return None if done.returncode else [dict(zip(fields, line.split(", "), strict=False)) for line in lines]
