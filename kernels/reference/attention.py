"""Twins of the kernels over slots: attention of one query per row, the write of a new slot, compaction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def live_slots(lengths: Tensor | None, rows: int, span: int, device: torch.device) -> Tensor:
    """`[B, S]` bool: slots in use; all of them without lengths."""
    if lengths is None:
        return torch.ones(rows, span, dtype=torch.bool, device=device)
    return torch.arange(span, device=device) < lengths[:, None]


def decode_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor | None, scaling: float, *, mass: str | None = None
) -> tuple[Tensor, Tensor | None]:
    """As `kvrepro.kernels.decode_attention.decode_attention`.

    `query` `[B, Hq, D]`, `keys` and `values` `[B, H, S, D]`, `lengths` `[B]` or None; returns `[B, Hq, D]` and mass.
    """
    rows, q_heads, size = query.shape
    kv_heads, span = keys.shape[1], keys.shape[2]
    live = live_slots(lengths, rows, span, query.device)[:, None, :, None]
    # 0 times NaN is NaN, so unused slots are replaced before any product
    keys, values = (torch.where(live, t, 0).float() for t in (keys, values))
    grouped = query.float().view(rows, kv_heads, q_heads // kv_heads, size)
    logits = (grouped @ keys.transpose(-1, -2) * scaling).masked_fill(~live.squeeze(-1)[:, :, None], -torch.inf)
    # a row without slots: softmax over nothing is NaN, the defined result is zero
    weights = logits.softmax(-1).nan_to_num(0.0)
    out = (weights @ values).view(rows, q_heads, size).to(query.dtype)
    if mass is None:
        return out, None
    reduced = {
        "all": lambda: weights,
        "group_mean": lambda: weights.mean(2),
        "group_max": lambda: weights.amax(2),
        "heads_mean": lambda: weights.mean((1, 2)),
    }[mass]()
    return out, reduced


def biased_attention(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scaling: float, *, with_mass: bool = False
) -> tuple[Tensor, Tensor | None]:
    """`decode_attention` as a CPU computes it where nothing compiled serves: a bias instead of lengths.

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


def append_kv(
    qkv: Tensor, cos: Tensor | None, sin: Tensor | None, keys: Tensor, values: Tensor, slots: Tensor
) -> Tensor:
    """As `kvrepro.kernels.append_kv.append_kv`: `qkv` `[B, Hq + 2H, D]`, `cos`, `sin` `[B, D]`, `slots` `[B]`."""
    kv_heads, span = keys.shape[1], keys.shape[2]
    turned, value = qkv[:, :-kv_heads].float(), qkv[:, -kv_heads:]
    if cos is not None:
        left, right = turned.chunk(2, dim=-1)
        turned = turned * cos.float()[:, None] + torch.cat((-right, left), dim=-1) * sin.float()[:, None]
    turned = turned.to(qkv.dtype)
    query, key = turned[:, :-kv_heads], turned[:, -kv_heads:]
    # no row is picked out by a condition, which would read the device: a row that must not write repeats what is there
    writes = ((slots >= 0) & (slots < span))[:, None, None]
    rows, at = torch.arange(len(slots), device=qkv.device), slots.clamp(0, max(0, span - 1)).long()
    keys[rows, :, at] = torch.where(writes, key.to(keys.dtype), keys[rows, :, at])
    values[rows, :, at] = torch.where(writes, value.to(values.dtype), values[rows, :, at])
    return query.contiguous()


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
