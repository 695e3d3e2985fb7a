"""How much each block of later queries attends to each token of a known trace: the golden eviction score."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..cache.attention import slot_attention
from ..cache.rotary import check_length


class BlockAttention:
    """Mean attention per block of queries, layer and KV head; goes where a `PrefillProbe` goes.

    `layers` collects `[blocks, H, n]` float32: block `b` holds the queries at `b * block ... (b + 1) * block - 1`.
    """

    def __init__(self, block: int):
        self.block = block
        self.layers: list[Tensor] = []

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer: `query` `[1, Hq, n, D]`, `key` `[1, H, n, D]`."""
        n_tokens, kv_heads = key.shape[2], key.shape[1]
        grouped = query[0].float().unflatten(0, (kv_heads, -1))
        columns = torch.arange(n_tokens, device=key.device)
        means = []
        for start in range(0, n_tokens, self.block):
            rows = columns[start : start + self.block]
            logits = torch.einsum("hgqd,hkd->hgqk", grouped[:, :, start : start + self.block], key[0].float())
            logits = (logits * scaling).masked_fill(columns > rows[:, None], float("-inf"))
            means.append(logits.softmax(-1).mean((1, 2)))
        self.layers.append(torch.stack(means))


@torch.inference_mode()
def future_maxima(model: PreTrainedModel, token_ids: list[int], block: int) -> Tensor:
    """Suffix maxima of the blocks' mean attention over a whole trace.

    Args:
        token_ids: prompt and reply.
        block: queries per block.

    Returns:
        `[blocks, L, H, n]` float32; entry `b` is the maximum over blocks `b` and later.

    Source: ForesightKV, arXiv 2602.03203; docs/predictor.md#eviction-judge (mean over the query group and the queries
    of a block, maximum over blocks).
    """
    check_length(model.config, len(token_ids))
    probe = BlockAttention(block)
    with slot_attention(model):
        model(input_ids=torch.tensor([token_ids], device=model.device), use_cache=False, probe=probe)
    means = torch.stack(probe.layers, dim=1)
    return means.flip(0).cummax(0).values.flip(0)
