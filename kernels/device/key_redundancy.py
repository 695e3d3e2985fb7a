"""Triton code of `key_redundancy`: no n x n matrix, every sum in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import dot


@triton.jit
def norm_kernel(
    keys,
    lengths,
    inverse,
    part_sum,
    span,
    n_blocks,
    key_row,
    key_head,
    key_slot,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
):
    """`1 / max(|k_i|, 1e-12)` of one block of slots and the block's sum of unit keys; all in float32."""
    pair = tl.program_id(0).to(tl.int64)
    row = pair // HEADS
    length = span
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + row).to(tl.int32), span)
    block = tl.program_id(1)
    slot = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    feature = tl.arange(0, SIZE_PAD)
    live = slot < length
    mask = live[:, None] & (feature[None, :] < SIZE)
    at = keys + row * key_row + (pair % HEADS) * key_head + slot[:, None] * key_slot + feature[None, :]
    k = tl.load(at, mask=mask, other=0.0).to(tl.float32)
    scale = 1.0 / tl.maximum(tl.sqrt(tl.sum(k * k, 1)), 1e-12)
    tl.store(inverse + pair * span + slot, scale, mask=live)
    total = tl.sum(k * scale[:, None], 0)
    tl.store(part_sum + (pair * n_blocks + block) * SIZE + feature, total, mask=feature < SIZE)


@triton.jit
def latest_kernel(
    keys,
    lengths,
    inverse,
    latest,
    cosine_at,
    threshold,
    span,
    key_row,
    key_head,
    key_slot,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
    FEATURES: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`m_i = max{j != i : cos(k_i, k_j) > threshold}`, 0 when there is none, and `C_(i, m_i)`, for a block of i.

    Columns are walked from the newest to the oldest in chunks of `CHUNK` blocks: a loop of known length, so that loads
    run ahead of the products. The walk ends after the chunk in which the last row has found its own. The products use
    the stored keys and float32 sums; the norms are divided out afterwards.
    """
    pair = tl.program_id(0).to(tl.int64)
    row = pair // HEADS
    length = span
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + row).to(tl.int32), span)
    base = keys + row * key_row + (pair % HEADS) * key_head
    own = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    own_live = own < length
    own_at = base + own.to(tl.int64)[:, None] * key_slot
    own_scale = tl.load(inverse + pair * span + own, mask=own_live, other=0.0)
    if FEATURES == SIZE_PAD:
        whole = tl.arange(0, SIZE_PAD)[None, :]
        k_own = tl.load(own_at + whole, mask=own_live[:, None] & (whole < SIZE), other=0.0)
    lane = tl.arange(0, BLOCK)
    found = tl.full([ROWS], -1, tl.int32)
    value = tl.zeros([ROWS], tl.float32)
    start = (length - 1) // BLOCK * BLOCK
    missing = tl.sum(own_live.to(tl.int32), 0)
    while (start >= 0) & (missing > 0):
        # of every lane, the newest similar column of this chunk and its cosine; without one, the last cosine it saw
        newest = tl.full([ROWS, BLOCK], -1, tl.int32)
        held = tl.zeros([ROWS, BLOCK], tl.float32)
        for step in range(CHUNK):
            column = start - step * BLOCK + lane
            live = (column >= 0) & (column < length)
            scale = tl.load(inverse + pair * span + column, mask=live, other=0.0)
            column_at = base + column.to(tl.int64)[None, :] * key_slot
            if FEATURES == SIZE_PAD:
                feature = tl.arange(0, SIZE_PAD)[:, None]
                k = tl.load(column_at + feature, mask=live[None, :] & (feature < SIZE), other=0.0)
                cosine = dot(k_own, k, PRECISION)
            else:
                cosine = tl.zeros([ROWS, BLOCK], tl.float32)
                for first in range(0, SIZE_PAD, FEATURES):
                    feature = first + tl.arange(0, FEATURES)
                    own_mask = own_live[:, None] & (feature[None, :] < SIZE)
                    k_part = tl.load(own_at + feature[None, :], mask=own_mask, other=0.0)
                    k_mask = live[None, :] & (feature[:, None] < SIZE)
                    k = tl.load(column_at + feature[:, None], mask=k_mask, other=0.0)
                    cosine += dot(k_part, k, PRECISION)
            cosine = cosine * own_scale[:, None] * scale[None, :]
            cosine = tl.where(own[:, None] == column[None, :], 0.0, cosine)
            waits = (newest < 0) & live[None, :]
            held = tl.where(waits, cosine, held)
            newest = tl.where(waits & (cosine > threshold), column[None, :], newest)
        best = tl.max(newest, 1)
        # no similar key at all: slot 0 is exempted, as the published code does; in the last chunk lane 0 saw it last
        chosen = tl.where(best[:, None] < 0, lane[None, :] == 0, newest == best[:, None])
        value = tl.where(found < 0, tl.sum(tl.where(chosen, held, 0.0), 1), value)
        found = tl.where(found < 0, best, found)
        missing = tl.sum((own_live & (found < 0)).to(tl.int32), 0)
        start -= CHUNK * BLOCK
    tl.store(latest + pair * span + own, tl.maximum(found, 0), mask=own_live)
    tl.store(cosine_at + pair * span + own, value, mask=own_live)


@triton.jit
def column_kernel(
    keys,
    lengths,
    inverse,
    part_sum,
    latest,
    cosine_at,
    out,
    span,
    n_blocks,
    key_row,
    key_head,
    key_slot,
    HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
):
    """`c_j = (u_j . sum_i u_i - u_j . u_j - sum_(i : m_i = j) C_ij) / n` with unit keys `u`, for a block of j.

    The first two terms are the whole column without its diagonal, so the matrix is never formed; the third is
    summed over rows in order instead of by atomic additions, so equal input gives equal bits.
    """
    pair = tl.program_id(0).to(tl.int64)
    row = pair // HEADS
    length = span
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + row).to(tl.int32), span)
    feature = tl.arange(0, SIZE_PAD)
    total = tl.zeros([SIZE_PAD], tl.float32)
    for first in range(0, n_blocks, PARTS):
        part = first + tl.arange(0, PARTS)
        part_mask = (part[:, None] < n_blocks) & (feature[None, :] < SIZE)
        at = part_sum + (pair * n_blocks + part[:, None]) * SIZE + feature[None, :]
        total += tl.sum(tl.load(at, mask=part_mask, other=0.0), 0)

    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    live = column < length
    mask = live[:, None] & (feature[None, :] < SIZE)
    base = keys + row * key_row + (pair % HEADS) * key_head
    k = tl.load(base + column.to(tl.int64)[:, None] * key_slot + feature[None, :], mask=mask, other=0.0)
    unit = k.to(tl.float32) * tl.load(inverse + pair * span + column, mask=live, other=0.0)[:, None]
    summed = tl.sum(unit * total[None, :], 1) - tl.sum(unit * unit, 1)
    for first in range(0, length, ROWS):
        own = first + tl.arange(0, ROWS)
        target = tl.load(latest + pair * span + own, mask=own < length, other=-1)
        value = tl.load(cosine_at + pair * span + own, mask=own < length, other=0.0)
        summed -= tl.sum(tl.where(target[:, None] == column[None, :], value[:, None], 0.0), 0)
    count = tl.maximum(length, 1).to(tl.float32)
    tl.store(out + pair * span + column, tl.where(live, summed / count, 0.0), mask=column < span)
