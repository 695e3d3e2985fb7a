"""Importance labels of one sequence: how much its answer attends to each token before, without an n x n matrix.

Source: DynTS, arXiv 2601.18383, `compute_is_sp.py`; docs/predictor.md#labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..cache.prefill import observe_sequence
from ..cache.probes import AnswerAttention


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
    head_labels: Tensor | None = None


@torch.inference_mode()
def label_sequence(
    model: PreTrainedModel, token_ids: list[int], answer_from: int, *, keep_heads: bool = False
) -> LabelledSequence:
    """Labels and hidden states of one whole sequence, in one pass; logits are made for the last token only.

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
