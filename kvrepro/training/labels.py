"""Importance labels: how much the answer attends to each earlier token, without an n x n matrix.

Source: DynTS, arXiv 2601.18383, `compute_is_sp.py`; docs/predictor.md#labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from ..cache.rotary import check_length

LABELLING = "kvrepro_labelling"
# of one attention block in float32; a handful of such blocks live at once
BLOCK_BYTES = 96 * 2**20


class AnswerAttention:
    """Sums the attention of queries from `answer_from` on, over layers and heads, diagonal zeroed.

    A block of answer queries is computed at a time, so the extra memory is a few times `BLOCK_BYTES` whatever the
    lengths; never an n x n matrix.

    Args:
        keep_heads: also keep the mean of every layer and query head, `[L, Hq, n]`.
    """

    def __init__(self, n_tokens: int, answer_from: int, device: torch.device, keep_heads: bool = False):
        self.answer_from, self.keep_heads = answer_from, keep_heads
        self.total = torch.zeros(n_tokens, dtype=torch.float64, device=device)
        self.by_layer: list[Tensor] = []
        self.heads = 0

    def add(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer: `query` `[1, Hq, n, D]`, `key` `[1, H, n, D]`."""
        n_tokens, q_heads, group = key.shape[2], query.shape[1], query.shape[1] // key.shape[1]
        columns = torch.arange(n_tokens, device=key.device)
        sums = torch.zeros(q_heads, n_tokens, device=key.device)
        keys = key[0].float()
        n_rows = max(1, BLOCK_BYTES // (4 * q_heads * n_tokens))
        for start in range(self.answer_from, n_tokens, n_rows):
            rows = columns[start : start + n_rows]
            block = query[0, :, start : start + n_rows].float().unflatten(0, (-1, group))
            mass = torch.einsum("hgqd,hkd->hgqk", block, keys).mul_(scaling)
            mass.masked_fill_(columns > rows[:, None], float("-inf"))
            mass = mass.softmax(-1).masked_fill_(columns == rows[:, None], 0.0)
            sums += mass.sum(dim=2).flatten(0, 1)
        self.total += sums.sum(0).double()
        self.heads += q_heads
        if self.keep_heads:
            self.by_layer.append(sums / (n_tokens - self.answer_from))

    @property
    def labels(self) -> Tensor:
        """`[n]` float32: mean over layers, heads and answer queries; sums to at most 1."""
        return (self.total / (self.heads * (len(self.total) - self.answer_from))).float()

    @property
    def head_labels(self) -> Tensor:
        """`[L, Hq, n]` float32: the same mean before it is taken over layers and heads."""
        return torch.stack(self.by_layer)


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


def _labelling_attention(module, query, key, value, attention_mask, scaling=None, answer_attention=None, **kwargs):
    if answer_attention is not None:
        answer_attention.add(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(LABELLING, _labelling_attention)
AttentionMaskInterface.register(LABELLING, lambda *args, **kwargs: None)


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
    check_length(model.config, len(token_ids))
    attention = AnswerAttention(len(token_ids), answer_from, model.device, keep_heads)
    caught: list[Tensor] = []
    hook = model.get_decoder().register_forward_hook(lambda _, args, out: caught.append(out.last_hidden_state[0]))
    before = model.config._attn_implementation
    model.set_attn_implementation(LABELLING)
    try:
        ids = torch.tensor([token_ids], device=model.device)
        model(input_ids=ids, use_cache=False, logits_to_keep=1, answer_attention=attention)
    finally:
        model.set_attn_implementation(before)
        hook.remove()
    return LabelledSequence(attention.labels, caught[0], attention.head_labels if keep_heads else None)
