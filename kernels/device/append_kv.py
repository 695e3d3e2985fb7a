"""Triton code of `append_kv`: rotate queries and keys, write keys and values behind each row's last slot."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import wait_for_predecessor


@triton.jit
def append_kernel(
    qkv,
    cos,
    sin,
    query,
    keys,
    values,
    slots,
    span,
    qkv_row,
    qkv_head,
    angle_row,
    key_row,
    key_head,
    key_slot,
    value_row,
    value_head,
    value_slot,
    Q_HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    ROTATE: tl.constexpr,
    PDL: tl.constexpr,
):
    """One head of one row: `rope(x)_d = x_d cos_d + sign_d x_(d +- D/2) sin_d`, sign -1 in the first half.

    Heads come as queries, keys, values. Rotation is computed in float32 and rounded once. A row whose slot is
    negative or behind the storage writes nothing.

    References: RoFormer, arXiv 2104.09864; halves instead of interleaved pairs, as in transformers.
    """
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    feature = tl.arange(0, SIZE_PAD)
    mask = feature < SIZE
    base = qkv + row * qkv_row + head * qkv_head
    x = tl.load(base + feature, mask=mask, other=0.0)
    # as a block: the interpreter cannot combine the truth of a scalar with that of a block
    slot = tl.load(slots + row).to(tl.int64) + tl.zeros([SIZE_PAD], tl.int64)
    writes = mask & (slot >= 0) & (slot < span)
    if head < Q_HEADS + KV_HEADS:
        if ROTATE:
            first = feature < SIZE // 2
            partner = tl.where(first, feature + SIZE // 2, feature - SIZE // 2)
            other = tl.load(base + partner, mask=mask, other=0.0).to(tl.float32)
            c = tl.load(cos + row * angle_row + feature, mask=mask, other=0.0).to(tl.float32)
            s = tl.load(sin + row * angle_row + feature, mask=mask, other=0.0).to(tl.float32)
            x = (x.to(tl.float32) * c + tl.where(first, -other, other) * s).to(qkv.dtype.element_ty)
        if head < Q_HEADS:
            tl.store(query + (row * Q_HEADS + head) * SIZE + feature, x, mask=mask)
        else:
            at = keys + row * key_row + (head - Q_HEADS) * key_head + slot * key_slot + feature
            tl.store(at, x.to(keys.dtype.element_ty), mask=writes)
    else:
        at = values + row * value_row + (head - Q_HEADS - KV_HEADS) * value_head + slot * value_slot + feature
        tl.store(at, x.to(values.dtype.element_ty), mask=writes)
