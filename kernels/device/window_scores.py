"""Triton code of `window_scores`: one pass for the normalisers, one that reduces; logits are never stored."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import dot


@triton.jit
def _tile(
    query_base,
    k,
    first,
    query_head,
    query_slot,
    scale,
    w,
    feature,
    ok,
    MEMBERS: tl.constexpr,
    SIZE: tl.constexpr,
    WINDOW_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`max_g scale * q_gw . k_j` over `MEMBERS` heads from `first`, `[WINDOW_PAD, BLOCK]`."""
    x = tl.full([WINDOW_PAD, BLOCK], float("-inf"), tl.float32)
    for member in range(MEMBERS):
        at = query_base + (first + member) * query_head + w[:, None] * query_slot + feature[None, :]
        q = tl.load(at, mask=ok[:, None] & (feature[None, :] < SIZE), other=0.0)
        x = tl.maximum(x, dot(q, k, PRECISION) * scale)
    return x


@triton.jit
def normaliser_kernel(
    queries,
    keys,
    valid,
    lengths,
    part_max,
    part_sum,
    scale,
    span,
    chunk,
    n_chunks,
    query_row,
    query_head,
    query_slot,
    key_row,
    key_head,
    key_slot,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    MEMBERS: tl.constexpr,
    WINDOW: tl.constexpr,
    WINDOW_PAD: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_VALID: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Maximum and sum of `2^x` over one chunk of slots, per query of the window (and per head of the group).

    References: online normaliser, arXiv 1805.02867. Sums are float32.
    """
    pair = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    first = tl.program_id(2) * MEMBERS
    row = pair // HEADS
    head = pair % HEADS
    length = span
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + row).to(tl.int32), span)
    w = tl.arange(0, WINDOW_PAD)
    feature = tl.arange(0, SIZE_PAD)
    ok = w < WINDOW
    if HAS_VALID:
        ok = ok & (tl.load(valid + row * WINDOW + w, mask=ok, other=0) != 0)
    query_base = queries + row * query_row + head * GROUP * query_head
    key_base = keys + row * key_row + head * key_head
    best = tl.full([WINDOW_PAD], float("-inf"), tl.float32)
    total = tl.zeros([WINDOW_PAD], tl.float32)
    for start in range(part * chunk, tl.minimum(part * chunk + chunk, length), BLOCK):
        slot = (start + tl.arange(0, BLOCK)).to(tl.int64)
        live = slot < length
        mask = live[None, :] & (feature[:, None] < SIZE)
        k = tl.load(key_base + slot[None, :] * key_slot + feature[:, None], mask=mask, other=0.0)
        x = _tile(
            query_base,
            k,
            first,
            query_head,
            query_slot,
            scale,
            w,
            feature,
            ok,
            MEMBERS,
            SIZE,
            WINDOW_PAD,
            BLOCK,
            PRECISION,
        )
        x = tl.where(live[None, :], x, float("-inf"))
        higher = tl.maximum(best, tl.max(x, 1))
        total = total * tl.exp2(best - higher) + tl.sum(tl.exp2(x - higher[:, None]), 1)
        best = higher
    at = ((pair * tl.num_programs(2) + tl.program_id(2)) * n_chunks + part) * WINDOW_PAD + w
    tl.store(part_max + at, best)
    tl.store(part_sum + at, total)


@triton.jit
def score_kernel(
    queries,
    keys,
    valid,
    lengths,
    part_max,
    part_sum,
    out,
    scale,
    span,
    n_chunks,
    query_row,
    query_head,
    query_slot,
    key_row,
    key_head,
    key_slot,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    MEMBERS: tl.constexpr,
    WINDOW: tl.constexpr,
    WINDOW_PAD: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    HAS_VALID: tl.constexpr,
    TAKE_MAX: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`s_j = mean_w reduce_g softmax_j(x_gw)_j` for one block of slots.

    With `MEMBERS == GROUP` the maximum over the group was taken on the logits and there is one softmax; otherwise
    each head has its own and the group is averaged, or maximised with `TAKE_MAX`.
    """
    pair = tl.program_id(0).to(tl.int64)
    row = pair // HEADS
    head = pair % HEADS
    length = span
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + row).to(tl.int32), span)
    w = tl.arange(0, WINDOW_PAD)
    feature = tl.arange(0, SIZE_PAD)
    ok = w < WINDOW
    if HAS_VALID:
        ok = ok & (tl.load(valid + row * WINDOW + w, mask=ok, other=0) != 0)
    slot = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = slot < length
    query_base = queries + row * query_row + head * GROUP * query_head
    mask = live[None, :] & (feature[:, None] < SIZE)
    at = keys + row * key_row + head * key_head + slot[None, :] * key_slot + feature[:, None]
    k = tl.load(at, mask=mask, other=0.0)
    kept = tl.zeros([WINDOW_PAD, BLOCK], tl.float32)
    for turn in range(GROUP // MEMBERS):
        x = _tile(
            query_base,
            k,
            turn * MEMBERS,
            query_head,
            query_slot,
            scale,
            w,
            feature,
            ok,
            MEMBERS,
            SIZE,
            WINDOW_PAD,
            BLOCK,
            PRECISION,
        )
        best = tl.full([WINDOW_PAD], float("-inf"), tl.float32)
        total = tl.zeros([WINDOW_PAD], tl.float32)
        for part in range(n_chunks):
            place = ((pair * (GROUP // MEMBERS) + turn) * n_chunks + part) * WINDOW_PAD + w
            peak = tl.load(part_max + place)
            higher = tl.maximum(best, peak)
            # chunks behind a row's length hold -inf and 0; the difference of two -inf would be NaN
            old = tl.where(best > float("-inf"), total * tl.exp2(best - higher), 0.0)
            new = tl.where(peak > float("-inf"), tl.load(part_sum + place) * tl.exp2(peak - higher), 0.0)
            total = old + new
            best = higher
        use = live[None, :] & ok[:, None]
        p = tl.where(use, tl.exp2(x - best[:, None]) / tl.where(total > 0, total, 1.0)[:, None], 0.0)
        if TAKE_MAX:
            kept = tl.maximum(kept, p)
        else:
            kept += p / (GROUP // MEMBERS)
    count = tl.maximum(tl.sum(ok.to(tl.float32), 0), 1.0)
    tl.store(out + pair * span + slot, tl.sum(kept, 0) / count, mask=slot < span)
