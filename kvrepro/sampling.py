"""Next-token sampling: temperature, top-k, top-p and keyed noise, for all rows at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import KvreproError
from .noise import gumbel, mix

ORDERS = ("hf", "dynts")


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn. `temperature=0` is greedy.

    `order="hf"` applies temperature, top-k, top-p (transformers); `order="dynts"` applies temperature,
    top-p, top-k (DynTS, METHODS.md 4.1): there the nucleus is measured on the full distribution, so it
    can be larger. Source: DynTS `inference/base.py`.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20  # 0 = off
    order: str = "hf"

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise KvreproError(f"temperature={self.temperature}: must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise KvreproError(f"top_p={self.top_p}: must lie in (0, 1]; 1 switches it off")
        if self.top_k < 0:
            raise KvreproError(f"top_k={self.top_k}: must be 0 (off) or above")
        if self.order not in ORDERS:
            raise KvreproError(f"sampling_order={self.order!r}: known orders are {', '.join(ORDERS)}")


def sample_tokens(logits: Tensor, config: SamplingConfig, keys: Tensor, steps: Tensor) -> Tensor:
    """Draw one token per row.

    Args:
        logits: `[B, V]`, any float dtype.
        keys: `[B]` int64, the rows' sampling keys (`noise.row_key`).
        steps: `[B]` int64, index of the token being drawn within its reply.

    Returns:
        `[B]` int64 token ids. The noise is tied to (key, step, token id): two methods that see nearly the
        same logits draw the same token, whatever the batch looks like.
    """
    if config.temperature == 0:
        return logits.argmax(-1)
    scaled = logits.float() / config.temperature
    size = scaled.shape[-1]
    width = min(config.top_k, size) if config.top_k else size
    top, tokens = scaled.topk(width, dim=-1)
    if config.top_p < 1:
        # the mass before a token decides: the one that crosses top_p stays, as in transformers
        total = top if config.order == "hf" else scaled
        probabilities = (top - total.logsumexp(-1, keepdim=True)).exp()
        before = probabilities.cumsum(-1) - probabilities
        top = top.masked_fill(before >= config.top_p, float("-inf"))
    noise = gumbel(mix(keys, steps)[:, None], tokens)
    choice = (top + noise).argmax(-1, keepdim=True)
    return tokens.gather(-1, choice).squeeze(-1)
