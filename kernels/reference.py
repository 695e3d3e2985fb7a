"""Torch twins of the kernels: the definition of correct, and the path of a CPU where nothing compiled serves."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scaling: float, *, with_mass: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Attention of one query per row over the slots in use.

    Args:
        query: `[B, Hq, D]`, rotated.
        keys, values: `[B, H, S, D]`; query head `h` reads KV head `h // (Hq / H)`.
        bias: `[B, 1, 1, S]` in the dtype of `query`, -inf where a slot holds nothing, else 0; None when every slot
            of every row is in use. What lies in an empty slot must be finite; the cache zeroes storage before use.
        scaling: factor on the dot products, usually `D ** -0.5`.
        with_mass: also return the probabilities.

    Returns:
        `[B, Hq, D]` in the dtype of `query`, and `[B, H, G, S]` float32 probabilities or None.
    """
    rows, q_heads, size = query.shape
    kv_heads, span = keys.shape[1], keys.shape[2]
    grouped = query.reshape(rows, kv_heads, q_heads // kv_heads, size)
    if not with_mass and query.device.type == "cpu" and query.dtype != torch.float32:
        # the query heads of a KV head are the queries of one small attention, so K and V are read once; in bfloat16
        # on one core this takes 0.56 to 0.91 of the time of the products below (2 and 3 KV heads, 8 to 64 rows, 150
        # to 600 slots), in float32 0.92 to 1.21, so float32 keeps the products
        bias = None if bias is None else bias.expand(rows, kv_heads, grouped.shape[2], span)
        out = scaled_dot_product_attention(grouped, keys, values, bias, scale=scaling)
        return out.reshape(rows, q_heads, size), None
    grouped = grouped.flatten(0, 1)
    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    if bias is None:
        logits = torch.bmm(grouped, keys.transpose(1, 2)) * scaling
    else:
        wide = bias.expand(rows, kv_heads, 1, span).reshape(rows * kv_heads, 1, span)
        logits = torch.baddbmm(wide, grouped, keys.transpose(1, 2), alpha=scaling)
    mass = logits.softmax(-1, dtype=torch.float32)
    out = torch.bmm(mass.to(values.dtype), values).view(rows, q_heads, size)
    return out, mass.view(rows, kv_heads, -1, span) if with_mass else None


def compact_slots(kv: Tensor, rows: Tensor, slots: Tensor) -> None:
    """Move the kept slots of some rows to the front, in place and in order.

    Args:
        kv: `[2, L, B, H, S, D]`, keys and values of all layers.
        rows: `[R]` int64, the rows to compact.
        slots: `[L or 1, R, H or 1, K]` int64, the slots to keep, ascending.

    The temporary is one row of all layers where the layers share their slots, else one layer of the compacted
    rows; never a second cache.
    """
    _, layers, _, heads, _, _ = kv.shape
    kept = slots.shape[-1]
    if slots.shape[0] == 1 and slots.shape[2] == 1:
        for row, chosen in zip(rows.tolist(), slots[0, :, 0], strict=True):
            kv[:, :, row, :, :kept] = kv[:, :, row].index_select(3, chosen)
        return
    row = rows[:, None, None]
    head = torch.arange(heads, device=kv.device)[None, :, None]
    target = torch.arange(kept, device=kv.device)[None, None, :]
    for layer in range(layers):
        source = slots[min(layer, slots.shape[0] - 1)]
        kv[:, layer, row, head, target] = kv[:, layer, row, head, source]
