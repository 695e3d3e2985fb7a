"""Triton code of `compact_slots`: each program walks one (K or V, layer, row, head) from front to back."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def compact_kernel(
    storage,
    rows,
    slots,
    kept,
    n_rows,
    n_layers,
    n_heads,
    part_stride,
    layer_stride,
    row_stride,
    head_stride,
    slot_stride,
    plan_layer,
    plan_row,
    plan_head,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`x[k] <- x[slots[k]]` for `k = 0 .. K-1`, in place, in blocks that load before they store.

    Safe although source and target overlap: kept slots ascend, so `slots[k] >= k`. A later block reads slots at or
    behind its own first target, which no earlier block has written; inside a block all loads come before all stores,
    which holds on the hardware because a program is a single warp (see the wrapper). Slots that stay where they are
    cost no traffic.
    """
    place = tl.program_id(0).to(tl.int64)
    head = place % n_heads
    row_at = place // n_heads % n_rows
    layer = place // n_heads // n_rows % n_layers
    part = place // n_heads // n_rows // n_layers
    row = tl.load(rows + row_at).to(tl.int64)
    base = storage + part * part_stride + layer * layer_stride + row * row_stride + head * head_stride
    plan = slots + layer * plan_layer + row_at * plan_row + head * plan_head
    feature = tl.arange(0, SIZE_PAD)
    for start in range(0, kept, BLOCK):
        target = start + tl.arange(0, BLOCK).to(tl.int64)
        source = tl.load(plan + target, mask=target < kept, other=0).to(tl.int64)
        moves = (target < kept) & (source != target)
        mask = moves[:, None] & (feature[None, :] < SIZE)
        moved = tl.load(base + source[:, None] * slot_stride + feature[None, :], mask=mask, other=0)
        # NVIDIA's threads of a warp may run apart; AMD's never do
        tl.debug_barrier()
        tl.store(base + target[:, None] * slot_stride + feature[None, :], moved, mask=mask)
