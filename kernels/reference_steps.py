"""Torch twins of the kernels of a decode step over rows of different length: plain formulas, float32 inside.

They define what is correct. `reference.decode_attention` stays the fast path of a CPU (it takes a bias instead of
lengths and wants finite storage); the tests hold the two to each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
# stands for the token of a row whose logits are not finite
NOT_FINITE = -1


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


def _shift_right(x: Tensor, bits: int) -> Tensor:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix(keys: Tensor, counters: Tensor) -> Tensor:
    """SplitMix64 finaliser of int64 `keys + (counters + 1) * golden`, equal to `kvrepro.cache.noise.mix`."""
    x = keys + (counters + 1) * GOLDEN
    x = (x ^ _shift_right(x, 30)) * MIX_1
    x = (x ^ _shift_right(x, 27)) * MIX_2
    return x ^ _shift_right(x, 31)


def sample(
    logits: Tensor, keys: Tensor, steps: Tensor, *, temperature: float, top_k: int, top_p: float, order: str
) -> Tensor:
    """As `kvrepro.kernels.sample.sample`: `logits` `[B, V]`, `keys` and `steps` `[B]` int64; returns `[B]` int64."""
    if temperature == 0:
        return where_finite(logits, logits.argmax(-1))
    scaled = logits.float() / temperature
    width = min(top_k, scaled.shape[-1]) if top_k else scaled.shape[-1]
    top, tokens = scaled.topk(width, dim=-1)
    if top_p < 1:
        total = top if order == "hf" else scaled
        probabilities = (top - total.logsumexp(-1, keepdim=True)).exp()
        # the mass before a token decides: the one that crosses top_p stays
        before = probabilities.cumsum(-1) - probabilities
        top = top.masked_fill(before >= top_p, -torch.inf)
    bits = _shift_right(splitmix(splitmix(keys, steps)[:, None], tokens), 41)
    noise = -torch.log(-torch.log((bits.float() + 0.5) * 2.0**-23))
    choice = (top + noise).argmax(-1, keepdim=True)
    return where_finite(logits, tokens.gather(-1, choice).squeeze(-1), tokens[:, 0])


def where_finite(logits: Tensor, tokens: Tensor, largest: Tensor | None = None) -> Tensor:
    """`tokens` `[B]`, but `NOT_FINITE` where the row's logits hold NaN, +inf or nothing but -inf.

    The largest logit decides, because torch ranks NaN above all: no further pass over the vocabulary, and no value is
    read by the host.

    Args:
        largest: `[B]` int64, where each row's largest logit stands; None where that is the token itself.
    """
    peak = logits.gather(-1, (tokens if largest is None else largest)[:, None])[:, 0]
    return torch.where(peak.isfinite(), tokens, NOT_FINITE)
