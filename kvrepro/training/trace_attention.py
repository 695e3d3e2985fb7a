"""What attention over a finished trace says of its tokens: importance labels, and how much later blocks look back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..cache.prefill import observe_sequence
from ..cache.probes import AnswerAttention, BlockAttention, suffix_maxima


@dataclass(frozen=True)
class LabelledSequence:
    """What one pass over a whole sequence yields.

    Attributes:
        labels: `[n]` float32.
        hidden: `[n, hidden]`, last hidden states after the final norm, in the model's dtype.
        head_labels: `[L, Hq, n]` float32, or None where they were not asked for.
    """

    labels: Tensor
    hidden: Tensor
    head_labels: Tensor | None


@torch.inference_mode()
def label_sequence(
    model: PreTrainedModel, token_ids: list[int], answer_from: int, *, keep_heads: bool = False
) -> LabelledSequence:
    """How much the answer attends to each token before it, and all hidden states; no n x n matrix is made.

    Source: DynTS, arXiv 2601.18383, `compute_is_sp.py`; docs/predictor.md#labels.

    Args:
        token_ids: prompt and reply.
        answer_from: index of the first token after the think-end tag; the queries of the label.
        keep_heads: also return the means of every layer and head.

    Raises:
        ValueError: no answer token, so there is nothing to average.
    """
    if not 0 < answer_from < len(token_ids):
        raise ValueError(f"answer_from={answer_from}: a trace of {len(token_ids)} tokens has no answer to label from")
    attention, caught = AnswerAttention(answer_from, keep_heads), []
    hook = model.get_decoder().register_forward_hook(lambda _, args, out: caught.append(out.last_hidden_state[0]))
    try:
        observe_sequence(model, token_ids, attention)
    finally:
        hook.remove()
    return LabelledSequence(attention.labels, caught[0], attention.head_labels)


@torch.inference_mode()
def future_maxima(model: PreTrainedModel, token_ids: list[int], block: int) -> Tensor:
    """Suffix maxima of the blocks' mean attention over a whole trace: what `oracle_future` ranks by.

    Source: ForesightKV, arXiv 2602.03203; docs/predictor.md#eviction-judge (mean over the query group and the queries
    of a block, maximum over blocks).

    Args:
        token_ids: prompt and reply.
        block: queries per block.

    Returns:
        `[blocks, L, H, n]` float32; entry `b` is the maximum over blocks `b` and later.
    """
    probe = BlockAttention(block)
    observe_sequence(model, token_ids, probe)
    return suffix_maxima(torch.stack(probe.layers, dim=1))
