"""A slow, independent full-cache run that hides chosen positions: what a compressed cache must agree with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface


@dataclass
class Seen:
    """What the run shows of itself, layer by layer: rotated `queries` `[Hq, n, D]`, `keys` and `values` `[H, n, D]`."""

    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    last_hidden: Tensor | None = None


def _oracle_attention(module, query, key, value, attention_mask, scaling=None, hidden=None, seen=None, **kwargs):
    if seen is not None:
        seen.queries.append(query[0])
        seen.keys.append(key[0])
        seen.values.append(value[0])
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    n = key.shape[2]
    blocked = ~torch.ones(n, n, dtype=torch.bool).tril()
    blocked = blocked | hidden[module.layer_idx].repeat_interleave(group, 0)
    logits = (query @ key.transpose(2, 3)) * scaling
    weights = logits.masked_fill(blocked[None], float("-inf")).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("test_oracle", _oracle_attention)
AttentionMaskInterface.register("test_oracle", lambda *args, **kwargs: None)


@torch.inference_mode()
def oracle_logits(model, token_ids: list[int], hidden: Tensor, seen: Seen | None = None) -> Tensor:
    """Logits `[n, V]` of a whole sequence in which query i of layer l and KV head h cannot see `hidden[l, h, i]`."""
    before = model.config._attn_implementation
    model.set_attn_implementation("test_oracle")
    caught: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: caught.append(args[0][0]))
    try:
        out = model(input_ids=torch.tensor([token_ids]), use_cache=False, hidden=hidden, seen=seen)
    finally:
        model.set_attn_implementation(before)
        hook.remove()
    if seen is not None:
        seen.last_hidden = caught[0]
    return out.logits[0]
