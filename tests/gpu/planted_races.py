"""Kernels and calls that break a rule each, and some that keep it narrowly: what the race checker must tell apart."""

from __future__ import annotations

from functools import partial

import torch
import triton
import triton.language as tl
from kvrepro.kernels.compact_slots import compact_slots


@triton.jit
def shift_kernel(values, n):
    """Each program reads what its neighbour writes."""
    i = tl.program_id(0)
    if i + 1 < n:
        tl.store(values + i, tl.load(values + i + 1) + 1)


@triton.jit
def total_kernel(values, total):
    """All programs write one address."""
    tl.store(total, tl.load(values + tl.program_id(0)))


@triton.jit
def twice_kernel(values):
    """One store writes one address with two values."""
    lane = tl.arange(0, 4)
    tl.store(values + lane // 2, lane)


@triton.jit
def beyond_kernel(values, n, BLOCK: tl.constexpr):
    """A store without a mask."""
    tl.store(values + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), 1)


@triton.jit
def join_kernel(parts, counter, total, n, ORDER: tl.constexpr, BARRIER: tl.constexpr):
    """The last program adds up what all have written: the one that counts last, or without an order the last one."""
    i = tl.program_id(0)
    lane = tl.arange(0, 4)
    tl.store(parts + i * 4 + lane, lane + i)
    if BARRIER:
        tl.debug_barrier()
    arrived = i if ORDER == "none" else tl.atomic_add(counter, 1, sem=ORDER, scope="gpu")
    if arrived == n - 1:
        sums = tl.zeros([4], tl.int32)
        for part in range(n):
            sums += tl.load(parts + part * 4 + lane)
        tl.store(total + lane, sums)
        tl.store(counter, 0)


def _join(order: str, barrier: bool = True, n: int = 5) -> None:
    parts, counter, total = torch.zeros(n, 4, dtype=torch.int32), torch.zeros(1, dtype=torch.int32), torch.zeros(4)
    join_kernel[(n,)](parts, counter, total.int(), n, ORDER=order, BARRIER=barrier)


def _compact(rows: list[int], slots: torch.Tensor) -> None:
    storage = torch.zeros(2, 1, 3, 1, 50, 8)
    compact_slots(storage, torch.tensor(rows), slots[None, :, None].contiguous(), impl="triton")


PLANTS = {
    "neighbours": lambda: shift_kernel[(4,)](torch.zeros(4), 4),
    "one address": lambda: total_kernel[(4,)](torch.zeros(4), torch.zeros(1)),
    "twice": lambda: twice_kernel[(1,)](torch.zeros(2, dtype=torch.int32)),
    "beyond": lambda: beyond_kernel[(2,)](torch.zeros(6, dtype=torch.int32), 6, BLOCK=4),
    "one row twice": lambda: _compact([1, 1], torch.stack([torch.arange(1, 41), torch.arange(10, 50)])),
    "a slot beyond": lambda: _compact([2], torch.arange(20, 60)[None]),
    "joined without an atomic": partial(_join, "none"),
    "joined after a relaxed atomic": partial(_join, "relaxed"),
    "joined after a release": partial(_join, "release"),
    "joined without a barrier": partial(_join, "acq_rel", barrier=False),
    "joined by the last to arrive": partial(_join, "acq_rel"),
    "two rows": lambda: _compact([1, 0], torch.stack([torch.arange(1, 41), torch.arange(10, 50)])),
}
