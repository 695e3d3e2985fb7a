"""Triton code of `skinny_linear`: a few rows times a large weight, the sum over features split over programs."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import dot


@triton.jit
def linear_kernel(
    x,
    weight,
    bias,
    out,
    parts,
    counters,
    rows,
    outputs,
    features,
    x_row,
    weight_row,
    ROWS_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`out_mn = sum_k x_mk w_nk + b_n` for a block of n and, with `SPLITS` above 1, one part of the k.

    The weight is the left operand of the product: its block fills the tensor cores' 64 rows, which the few rows of x
    would leave mostly empty. The part that arrives last at a block of n adds all of them up, in the order of k whoever
    is last, and puts the counter back to 0.

    References: split-K with a counter per tile, as in CUTLASS' semaphore; the counting instead of waiting is the
    `threadFenceReduction` sample of CUDA.
    """
    tile = tl.program_id(0)
    split = tl.program_id(1)
    row = tl.arange(0, ROWS_PAD)
    n = tile.to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    x_at = x + row.to(tl.int64)[None, :] * x_row
    weight_at = weight + n[:, None] * weight_row
    blocks = tl.cdiv(features, BLOCK_K)
    begin = blocks * split // SPLITS * BLOCK_K
    end = tl.minimum(blocks * (split + 1) // SPLITS * BLOCK_K, features)
    total = tl.zeros([BLOCK_N, ROWS_PAD], tl.float32)
    for start in range(begin, end, BLOCK_K):
        at = start + k
        w_mask = (n[:, None] < outputs) & (at[None, :] < end)
        # read once, so nothing else should leave the cache for it
        w = tl.load(weight_at + at[None, :], mask=w_mask, other=0.0, eviction_policy="evict_first")
        xs = tl.load(x_at + at[:, None], mask=(row[None, :] < rows) & (at[:, None] < end), other=0.0)
        total += dot(w, xs, PRECISION)

    mask = (n[:, None] < outputs) & (row[None, :] < rows)
    place = row.to(tl.int64)[None, :] * outputs + n[:, None]
    is_last = True
    if SPLITS > 1:
        tl.store(parts + split.to(tl.int64) * rows * outputs + place, total, mask=mask)
        # all threads' stores come before the release of the one thread that counts
        tl.debug_barrier()
        is_last = tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu") == SPLITS - 1
    if is_last:
        if SPLITS > 1:
            total = tl.zeros([BLOCK_N, ROWS_PAD], tl.float32)
            for part in tl.static_range(SPLITS):
                # other multiprocessors wrote these: not from level 1
                part_at = parts + tl.cast(part, tl.int64) * rows * outputs + place
                total += tl.load(part_at, mask=mask, other=0.0, cache_modifier=".cg")
            tl.store(counters + tile, 0)
        if HAS_BIAS:
            total += tl.load(bias + n, mask=n < outputs, other=0.0).to(tl.float32)[:, None]
        tl.store(out + place, total.to(out.dtype.element_ty), mask=mask)
