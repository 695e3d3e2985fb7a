"""Next-token sampling: temperature, top-k, top-p and keyed noise, for all rows at once."""

from __future__ import annotations

from torch import Tensor

from ..cache.noise import gumbel, mix
from ..kernels.reference_steps import NOT_FINITE, where_finite
from ..kernels.sample import sample
from .requests import SamplingConfig

__all__ = ["NOT_FINITE", "sample_tokens", "where_finite"]


def sample_tokens(logits: Tensor, config: SamplingConfig, keys: Tensor, steps: Tensor) -> Tensor:
    """Draw one token per row.

    Args:
        logits: `[B, V]`, any float dtype.
        keys: `[B]` int64, the rows' sampling keys (`noise.row_key`).
        steps: `[B]` int64, index of the token being drawn within its reply.

    Returns:
        `[B]` int64 token ids, `NOT_FINITE` for a row that no token can be drawn from: NaN or +inf among its logits, or
        nothing but -inf. The noise is tied to (key, step, token id): two methods that see nearly the same logits draw
        the same token, whatever the batch looks like.
    """
    if logits.is_cuda:
        # one kernel instead of a dozen launches; the wrapper warns where it falls back
        settings = dict(temperature=config.temperature, top_k=config.top_k, top_p=config.top_p, order=config.order)
        return sample(logits, keys, steps, **settings)
    if config.temperature == 0:
        return where_finite(logits, logits.argmax(-1))
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
    return where_finite(logits, tokens.gather(-1, choice).squeeze(-1), tokens[:, 0])
