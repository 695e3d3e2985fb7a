"""What the memory gives: a copy, and works that only read; a decode step mostly reads, so its bound is their rate."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from ...kernels.bench import COPY_BYTES, time_ms
from .child import Task

SMALL_BYTES = 2**20
# what reads most is what the memory can do; libraries differ in how well they do it
READERS = ("sum", "max", "dot", "matrix times vector")


def measure(task: Task) -> None:
    """A row for the copy and one for every reader, samples in bytes per second."""
    size, device = COPY_BYTES if task.on_gpu else SMALL_BYTES, task.settings.device

    def row(prepare: Callable[[], tuple[Callable[[], object], int]]) -> dict[str, Any]:
        work, moved = prepare()
        samples = [moved / (ms / 1e3) for ms in time_ms(work, capture=False, device=device)]
        return {"bytes": moved, "bytes_per_s": statistics.median(samples), "samples": samples}

    task.rows.add("rates", lambda: row(lambda: _copy(size, device)), name="copy", kind="copy")
    for name in READERS:
        task.rows.add("rates", lambda n=name: row(lambda: _reader(n, size, device)), name=name, kind="read")


def _copy(size: int, device: str) -> tuple[Callable[[], object], int]:
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source), 2 * size


def _reader(name: str, size: int, device: str) -> tuple[Callable[[], object], int]:
    numbers = torch.rand(size // 4, device=device)
    if name == "sum":
        return numbers.sum, size
    if name == "max":
        return numbers.amax, size
    if name == "dot":
        other = numbers.clone()
        return lambda: torch.dot(numbers, other), 2 * size
    # twice as many numbers of half the size
    matrix = torch.rand(size // 2, dtype=torch.bfloat16, device=device).view(-1, 4096)
    vector = matrix[0].clone()
    return lambda: matrix @ vector, size
