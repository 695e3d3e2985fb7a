"""How much each block of later queries attends to each token of a finished trace: what `oracle_future` ranks by."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..cache.prefill import observe_sequence
from ..cache.probes import BlockAttention, suffix_maxima


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
    probe = BlockAttention(block)
    observe_sequence(model, token_ids, probe)
    return suffix_maxima(torch.stack(probe.layers, dim=1))
