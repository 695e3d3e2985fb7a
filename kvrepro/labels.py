"""Importance labels: how much the answer attends to each earlier token, without an n x n matrix.

Source: DynTS, arXiv 2601.18383, `compute_is_sp.py`; METHODS.md section 3.2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

LABELLING = "kvrepro_labelling"
QUERY_BLOCK = 64  # answer queries whose attention is held at once


class AnswerAttention:
    """Sums the attention of queries from `answer_from` on, over layers and heads, diagonal zeroed."""

    def __init__(self, n_tokens: int, answer_from: int, device: torch.device):
        self.answer_from = answer_from
        self.total = torch.zeros(n_tokens, dtype=torch.float64, device=device)
        self.heads = 0

    def add(self, query: Tensor, key: Tensor, scaling: float) -> None:
        """Add one layer: `query` `[1, Hq, n, D]`, `key` `[1, H, n, D]`."""
        n_tokens, group = key.shape[2], query.shape[1] // key.shape[1]
        columns = torch.arange(n_tokens, device=key.device)
        for start in range(self.answer_from, n_tokens, QUERY_BLOCK):
            rows = columns[start : start + QUERY_BLOCK]
            block = query[0, :, start : start + QUERY_BLOCK].float().unflatten(0, (-1, group))
            logits = torch.einsum("hgqd,hkd->hgqk", block, key[0].float()) * scaling
            logits = logits.masked_fill(columns > rows[:, None], float("-inf"))
            mass = logits.softmax(-1).masked_fill(columns == rows[:, None], 0.0)
            self.total += mass.sum(dim=(0, 1, 2)).double()
        self.heads += query.shape[1]

    @property
    def labels(self) -> Tensor:
        """`[n]` float32: mean over layers, heads and answer queries; sums to at most 1."""
        return (self.total / (self.heads * (len(self.total) - self.answer_from))).float()


def _labelling_attention(module, query, key, value, attention_mask, scaling=None, answer_attention=None, **kwargs):
    if answer_attention is not None:
        answer_attention.add(query, key, query.shape[-1] ** -0.5 if scaling is None else scaling)
    return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(LABELLING, _labelling_attention)
AttentionMaskInterface.register(LABELLING, lambda *args, **kwargs: None)


@torch.inference_mode()
def label_trace(model: PreTrainedModel, token_ids: list[int], answer_from: int) -> tuple[Tensor, Tensor]:
    """Labels and hidden states of one whole sequence, in one pass.

    Args:
        token_ids: prompt and reply.
        answer_from: index of the first token after the think-end tag; the queries of the label.

    Returns:
        `labels` `[n]` float32 and the last hidden states after the final norm `[n, hidden]`.

    Raises:
        ValueError: no answer token, so there is nothing to average.
    """
    if not 0 < answer_from < len(token_ids):
        raise ValueError(f"answer_from={answer_from}: a trace of {len(token_ids)} tokens has no answer to label from")
    attention = AnswerAttention(len(token_ids), answer_from, model.device)
    caught: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda module, args: caught.append(args[0][0]))
    before = model.config._attn_implementation
    model.set_attn_implementation(LABELLING)
    try:
        model(input_ids=torch.tensor([token_ids], device=model.device), use_cache=False, answer_attention=attention)
    finally:
        model.set_attn_implementation(before)
        hook.remove()
    return attention.labels, caught[0]
