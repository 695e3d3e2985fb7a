"""Next-token sampling: temperature, top-k, top-p and keyed noise, for all rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.reference.sampling import NOT_FINITE
from ..kernels.sample import sample
from .requests import SamplingConfig


def sample_tokens(logits: Tensor, config: SamplingConfig, keys: Tensor, steps: Tensor) -> Tensor:
    """Draw one token per row; one kernel on a GPU, its torch twin elsewhere.

    Args:
        logits: `[B, V]`, any float dtype.
        keys: `[B]` int64, the rows' sampling keys (`batch.row_key`).
        steps: `[B]` int64, index of the token being drawn within its reply.

    Returns `[B]` int64 token ids, `NOT_FINITE` for a row that no token can be drawn from: NaN or +inf among its logits,
    or nothing but -inf. The noise is tied to (key, step, token id): two methods that see nearly the same logits draw
    the same token, whatever the batch looks like.
    """
    return sample(logits, keys, steps, **vars(config))


def next_tokens(logits: Tensor, config: SamplingConfig, forced: Tensor | None, keys: Tensor, steps: Tensor) -> Tensor:
    """The next token of each row, `[B]`: drawn, or the one of `forced`.

    A forced row draws too, so that its step takes the time of any other, and what it drew is dropped. `NOT_FINITE` for
    a row whose logits are not finite, forced or not; the host notices when it reads the token.

    Args:
        forced: `[B]` int64 on the device of the logits, `NOT_FINITE` for a row that draws; None if all do.
    """
    drawn = sample_tokens(logits, config, keys, steps)
    if forced is None:
        return drawn
    return torch.where((forced == NOT_FINITE) | (drawn == NOT_FINITE), drawn, forced)
