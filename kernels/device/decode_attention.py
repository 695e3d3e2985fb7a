"""Triton code of `decode_attention`: a work list of equal chunks, and flash-decoding over it."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import dot, wait_for_predecessor


@triton.jit
def plan_kernel(
    lengths,
    starts,
    row_of,
    counters,
    rows,
    span,
    units,
    n_counters,
    ROWS_PAD: tl.constexpr,
    SMALLEST: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    PDL: tl.constexpr,
):
    """The work list of one step, made by one program: `n_r = max(1, ceil(len_r / c))` work units of row r.

    `c` is the smallest multiple of `SMALLEST` with `sum_r n_r <= units`, found bit by bit: the sum never rises with c.
    """
    wait_for_predecessor(PDL)
    row = tl.arange(0, ROWS_PAD)
    exists = row < rows
    length = tl.zeros([ROWS_PAD], tl.int32) + span
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + row, mask=exists, other=0).to(tl.int32), span)
    blocks = tl.cdiv(length, SMALLEST)
    too_small = 0
    for step in tl.static_range(STEPS):
        tried = too_small + (1 << (STEPS - 1 - step))
        wanted = tl.sum(tl.where(exists, tl.maximum(tl.cdiv(blocks, tried), 1), 0), 0)
        too_small = tl.where(wanted > units, tried, too_small)
    count = tl.where(exists, tl.maximum(tl.cdiv(blocks, too_small + 1), 1), 0)
    total = tl.sum(count, 0)
    first = tl.cumsum(count, 0) - count
    tl.store(starts + row, first, mask=exists)
    tl.store(starts + rows, total)
    for part in range(tl.max(count, 0)):
        tl.store(row_of + first + part, row, mask=part < count)
    offset = tl.arange(0, BLOCK)
    for begin in range(0, units, BLOCK):
        unit = begin + offset
        tl.store(row_of + unit, -1, mask=(unit >= total) & (unit < units))
    for begin in range(0, n_counters, BLOCK):
        tl.store(counters + begin + offset, 0, mask=begin + offset < n_counters)


@triton.jit
def split_kernel(
    query,
    keys,
    values,
    lengths,
    starts,
    row_of,
    counters,
    logits,
    part_out,
    part_max,
    part_sum,
    out,
    normaliser,
    scale,
    span,
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
    MEMBERS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
    HAS_LENGTHS: tl.constexpr,
    WITH_LOGITS: tl.constexpr,
    PRECISION: tl.constexpr,
    HIP: tl.constexpr,
    PDL: tl.constexpr,
):
    """One work unit of one KV head, all query heads of the group together; whoever ends last joins the row's units.

    With `x_j = scale * q.k_j` in units of log 2 over the unit: `m = max_j x_j`, `s = sum_j 2^(x_j - m)`,
    `o = sum_j 2^(x_j - m) v_j`, rescaled whenever a block raises `m` (online softmax). All sums are float32.

    References: online normaliser, arXiv 1805.02867; FlashAttention, arXiv 2205.14135; the split over the sequence
    at decoding is "Flash-Decoding" (Dao et al., 2023); equal chunks from a work list as in FlashInfer, arXiv
    2501.01005.
    """
    wait_for_predecessor(PDL)
    head = tl.program_id(0).to(tl.int64)
    unit = tl.program_id(1).to(tl.int64)
    row = tl.load(row_of + unit).to(tl.int64)
    if row < 0:
        return
    first = tl.load(starts + row).to(tl.int64)
    parts = (tl.load(starts + row + 1) - first).to(tl.int32)
    length = span
    if HAS_LENGTHS:
        length = tl.minimum(tl.load(lengths + row).to(tl.int32), span)
    # the plan says how many units a row has, not which slots: whatever it was made from, every slot has one unit
    unit_size = tl.cdiv(tl.cdiv(length, parts), BLOCK) * BLOCK
    begin = (unit - first).to(tl.int32) * unit_size
    end = tl.minimum(begin + unit_size, length)

    member = tl.arange(0, GROUP_PAD)
    feature = tl.arange(0, SIZE_PAD)
    offset = tl.arange(0, BLOCK)
    q_head = head * GROUP + member
    q_mask = (member[:, None] < GROUP) & (feature[None, :] < SIZE)
    q = tl.load(query + row * query_row + q_head[:, None] * query_head + feature[None, :], mask=q_mask, other=0.0)

    best = tl.full([GROUP_PAD], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PAD], tl.float32)
    mixed = tl.zeros([GROUP_PAD, SIZE_PAD], tl.float32)
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
        mixed = mixed * shrink[:, None] + dot(p.to(v.dtype), v, PRECISION)
        total = total * shrink + tl.sum(p, 1)
        best = higher

    pair = row * HEADS + head
    if parts == 1:
        _finish(out, normaliser, pair, best, total, mixed, GROUP, GROUP_PAD, SIZE, SIZE_PAD, WITH_LOGITS)
    elif PARTS_PAD > 1:
        part = (unit * HEADS + head) * GROUP + member
        tl.store(part_max + part, best, mask=member < GROUP)
        tl.store(part_sum + part, total, mask=member < GROUP)
        tl.store(part_out + part[:, None] * SIZE + feature[None, :], mixed, mask=q_mask)
        if HIP:
            # AMD's barrier does not wait for stores under way, and the release below only for those of its own wave
            tl.inline_asm_elementwise(
                "s_waitcnt vmcnt(0)\nv_mov_b32 $0, $1", "=v,v", [member], dtype=tl.int32, is_pure=False, pack=1
            )
        tl.debug_barrier()
        arrived = tl.atomic_add(counters + pair, 1, sem="acq_rel", scope="gpu")
        if arrived == parts - 1:
            peak, mass, joined = _join(
                part_out,
                part_max,
                part_sum,
                first,
                parts,
                head,
                HEADS,
                GROUP,
                MEMBERS,
                SIZE,
                SIZE_PAD,
                PARTS_PAD,
                CHUNK,
            )
            _finish(out, normaliser, pair, peak, mass, joined, GROUP, MEMBERS, SIZE, SIZE_PAD, WITH_LOGITS)
            tl.store(counters + pair, 0)


@triton.jit
def _join(
    part_out,
    part_max,
    part_sum,
    first,
    parts,
    head,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    MEMBERS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    PARTS_PAD: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """`m = max_p m_p`, `s = sum_p 2^(m_p - m) s_p`, `o = sum_p 2^(m_p - m) o_p` of a row's units, in their order.

    Every load bypasses the level-1 cache, which does not see what other processors wrote; `CHUNK` parts are under way
    at a time.
    """
    member = tl.arange(0, MEMBERS)
    feature = tl.arange(0, SIZE_PAD)
    part = tl.arange(0, PARTS_PAD)
    at = ((first + part[None, :]) * HEADS + head) * GROUP + member[:, None]
    mask = (part[None, :] < parts) & (member[:, None] < GROUP)
    peaks = tl.load(part_max + at, mask=mask, other=float("-inf"), cache_modifier=".cg")
    sums = tl.load(part_sum + at, mask=mask, other=0.0, cache_modifier=".cg")
    top = tl.max(peaks, 1)
    total = tl.sum(tl.where(peaks > float("-inf"), tl.exp2(peaks - top[:, None]), 0.0) * sums, 1)
    joined = tl.zeros([CHUNK, MEMBERS, SIZE_PAD], tl.float32)
    for start in range(0, parts, CHUNK):
        some = start + tl.arange(0, CHUNK)
        place = ((first + some[:, None]) * HEADS + head) * GROUP + member[None, :]
        live = (some[:, None] < parts) & (member[None, :] < GROUP)
        part_at = part_out + place[:, :, None] * SIZE + feature[None, None, :]
        wanted = live[:, :, None] & (feature[None, None, :] < SIZE)
        # the large load first, so that it is under way while the weights are made
        x = tl.load(part_at, mask=wanted, other=0.0, cache_modifier=".cg")
        peak = tl.load(part_max + place, mask=live, other=float("-inf"), cache_modifier=".cg")
        joined += tl.where(peak > float("-inf"), tl.exp2(peak - top[None, :]), 0.0)[:, :, None] * x
    return top, total, tl.sum(joined, 0)


@triton.jit
def _finish(
    out,
    normaliser,
    pair,
    top,
    total,
    mixed,
    GROUP: tl.constexpr,
    MEMBERS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    WITH_LOGITS: tl.constexpr,
):
    """Write `o / s`, and `m + log2 s` where the side output needs it; a row without slots gives zeros and -inf."""
    member = tl.arange(0, MEMBERS)
    feature = tl.arange(0, SIZE_PAD)
    place = pair * GROUP + member
    some = tl.where(total > 0, total, 1.0)
    if WITH_LOGITS:
        tl.store(normaliser + place, tl.where(total > 0, top + tl.log2(some), float("-inf")), mask=member < GROUP)
    mixed = tl.where(total[:, None] > 0, mixed / some[:, None], 0.0)
    mask = (member[:, None] < GROUP) & (feature[None, :] < SIZE)
    tl.store(out + place[:, None] * SIZE + feature[None, :], mixed.to(out.dtype.element_ty), mask=mask)


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
    PDL: tl.constexpr,
):
    """Attention mass per slot: `p_gj = 2^(x_gj - z_g)` over the heads of a group, kept, averaged or maximised.

    `REDUCE`: 0 keeps all heads, 1 averages, 2 takes the maximum. Slots beyond a row's length get 0.
    """
    wait_for_predecessor(PDL)
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
