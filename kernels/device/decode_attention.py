"""Triton code of `decode_attention`: slots are split over programs, the parts are combined (flash-decoding)."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import dot


@triton.jit
def split_kernel(
    query,
    keys,
    values,
    lengths,
    logits,
    part_out,
    part_max,
    part_sum,
    scale,
    span,
    n_splits,
    query_row,
    query_head,
    key_row,
    key_head,
    key_slot,
    value_row,
    value_head,
    value_slot,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    WITH_LOGITS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One part of the slots of one (row, KV head), all query heads of the group together.

    With `x_j = scale * q.k_j` in units of log 2 over the part: `m = max_j x_j`, `s = sum_j 2^(x_j - m)`,
    `o = sum_j 2^(x_j - m) v_j`, rescaled whenever a block raises `m` (online softmax). All sums are float32.

    References: online normaliser, arXiv 1805.02867; FlashAttention, arXiv 2205.14135; the split over the sequence
    at decoding is "Flash-Decoding" (Dao et al., 2023).
    """
    pair = tl.program_id(0).to(tl.int64)
    split = tl.program_id(1)
    row = pair // HEADS
    head = pair % HEADS
    length = span
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + row).to(tl.int32), span)
    # each row divides what it holds, not the storage, so short rows keep all programs busy
    split_size = tl.cdiv(tl.cdiv(length, n_splits), BLOCK) * BLOCK
    begin = split * split_size
    end = tl.minimum(begin + split_size, length)

    member = tl.arange(0, GROUP_PAD)
    feature = tl.arange(0, SIZE_PAD)
    offset = tl.arange(0, BLOCK)
    q_head = head * GROUP + member
    q_mask = (member[:, None] < GROUP) & (feature[None, :] < SIZE)
    q = tl.load(query + row * query_row + q_head[:, None] * query_head + feature[None, :], mask=q_mask, other=0.0)

    best = tl.full([GROUP_PAD], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PAD], tl.float32)
    out = tl.zeros([GROUP_PAD, SIZE_PAD], tl.float32)
    key_base = keys + row * key_row + head * key_head
    value_base = values + row * value_row + head * value_head
    for start in range(begin, end, BLOCK):
        slot = (start + offset).to(tl.int64)
        live = slot < end
        # an unused slot is never read: whatever lies there, NaN included, cannot reach the result
        k_mask = live[None, :] & (feature[:, None] < SIZE)
        k = tl.load(key_base + slot[None, :] * key_slot + feature[:, None], mask=k_mask, other=0.0)
        x = dot(q, k, PRECISION) * scale
        if WITH_LOGITS:
            x_at = logits + (row * HEADS * GROUP + q_head[:, None]) * span + slot[None, :]
            tl.store(x_at, x, mask=(member[:, None] < GROUP) & live[None, :])
        x = tl.where(live[None, :], x, float("-inf"))
        # a block always holds a live slot, so the maximum is finite and nothing here is inf - inf
        higher = tl.maximum(best, tl.max(x, 1))
        shrink = tl.exp2(best - higher)
        p = tl.exp2(x - higher[:, None])
        v_mask = live[:, None] & (feature[None, :] < SIZE)
        v = tl.load(value_base + slot[:, None] * value_slot + feature[None, :], mask=v_mask, other=0.0)
        out = out * shrink[:, None] + dot(p.to(v.dtype), v, PRECISION)
        total = total * shrink + tl.sum(p, 1)
        best = higher

    part = ((row * HEADS + head) * GROUP + member) * n_splits + split
    tl.store(part_max + part, best, mask=member < GROUP)
    tl.store(part_sum + part, total, mask=member < GROUP)
    tl.store(part_out + part[:, None] * SIZE + feature[None, :], out, mask=q_mask)


@triton.jit
def combine_kernel(
    part_out,
    part_max,
    part_sum,
    out,
    normaliser,
    n_splits,
    out_row,
    out_head,
    Q_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    SPLITS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Join the parts of one (row, query head): `o = sum_p 2^(m_p - m) o_p / sum_p 2^(m_p - m) s_p`, `m = max_p m_p`.

    Also stores `m + log2 s`, from which the side output normalises. A row without slots gives zeros and -inf.
    """
    place = tl.program_id(0).to(tl.int64)
    row = place // Q_HEADS
    q_head = place % Q_HEADS
    part = tl.arange(0, SPLITS_PAD)
    maxima = tl.load(part_max + place * n_splits + part, mask=part < n_splits, other=float("-inf"))
    sums = tl.load(part_sum + place * n_splits + part, mask=part < n_splits, other=0.0)
    top = tl.max(maxima, 0)
    weight = tl.where(maxima > float("-inf"), tl.exp2(maxima - top), 0.0)
    total = tl.sum(weight * sums, 0)
    tl.store(normaliser + place, tl.where(total > 0, top + tl.log2(total), float("-inf")))

    feature = tl.arange(0, SIZE_PAD)
    joined = tl.zeros([SIZE_PAD], tl.float32)
    for start in range(0, SPLITS_PAD, CHUNK):
        chunk = start + tl.arange(0, CHUNK)
        peak = tl.load(part_max + place * n_splits + chunk, mask=chunk < n_splits, other=float("-inf"))
        share = tl.where(peak > float("-inf"), tl.exp2(peak - top), 0.0)
        mask = (chunk[:, None] < n_splits) & (feature[None, :] < SIZE)
        at = part_out + (place * n_splits + chunk[:, None]) * SIZE + feature[None, :]
        joined += tl.sum(share[:, None] * tl.load(at, mask=mask, other=0.0), 0)
    joined = tl.where(total > 0, joined / tl.where(total > 0, total, 1.0), 0.0)
    at = out + row * out_row + q_head * out_head + feature
    tl.store(at, joined.to(out.dtype.element_ty), mask=feature < SIZE)


@triton.jit
def mass_kernel(
    logits,
    normaliser,
    lengths,
    mass,
    span,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    REDUCE: tl.constexpr,
):
    """Attention mass per slot: `p_gj = 2^(x_gj - z_g)` over the heads of a group, kept, averaged or maximised.

    `REDUCE`: 0 keeps all heads, 1 averages, 2 takes the maximum. Slots beyond a row's length get 0.
    """
    pair = tl.program_id(0).to(tl.int64)
    row = pair // HEADS
    length = span
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + row).to(tl.int32), span)
    slot = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = slot < length
    kept = tl.zeros([BLOCK], tl.float32)
    for member in range(GROUP):
        q_head = pair * GROUP + member
        x = tl.load(logits + q_head * span + slot, mask=live, other=float("-inf"))
        p = tl.where(live, tl.exp2(x - tl.load(normaliser + q_head)), 0.0)
        if REDUCE == 0:
            tl.store(mass + q_head * span + slot, p, mask=slot < span)
        elif REDUCE == 1:
            kept += p / GROUP
        else:
            kept = tl.maximum(kept, p)
    if REDUCE != 0:
        tl.store(mass + pair * span + slot, kept, mask=slot < span)
