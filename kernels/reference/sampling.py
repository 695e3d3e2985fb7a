"""Noise that depends on what it is for, and the twin of the sampling kernel.

Integer arithmetic makes the bits of the noise, so a CPU and a GPU agree on them.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
# stands for the token of a row whose logits are not finite
NOT_FINITE = -1


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(keys: Tensor, counters: Tensor) -> Tensor:
    """Hash int64 `keys` with int64 `counters` (broadcast) into int64, by the SplitMix64 finaliser."""
    x = keys + (counters + 1) * GOLDEN
    x = (x ^ _shift_right(x, 30)) * MIX_1
    x = (x ^ _shift_right(x, 27)) * MIX_2
    return x ^ _shift_right(x, 31)


def uniform(keys: Tensor, counters: Tensor) -> Tensor:
    """Uniform float32 strictly inside (0, 1), of the broadcast shape of `keys` and `counters` (int64)."""
    # 23 bits and a half: exact in float32, never 0 or 1
    return (_shift_right(mix(keys, counters), 41).float() + 0.5) * 2.0**-23


def gumbel(keys: Tensor, counters: Tensor) -> Tensor:
    """Standard Gumbel noise, float32; `argmax(log p + gumbel)` samples from `p`."""
    return -torch.log(-torch.log(uniform(keys, counters)))


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
        # the mass before a token decides: the one that crosses top_p stays, as in transformers
        total = top if order == "hf" else scaled
        probabilities = (top - total.logsumexp(-1, keepdim=True)).exp()
        before = probabilities.cumsum(-1) - probabilities
        top = top.masked_fill(before >= top_p, -torch.inf)
    noise = gumbel(mix(keys, steps)[:, None], tokens)
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
