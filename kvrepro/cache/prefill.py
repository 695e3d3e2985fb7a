"""A prompt's prefill, and what a method may want to know of it: last queries, and how much each token was attended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ..errors import KvreproError

QUERY_BLOCK = 64  # queries whose attention is held at once


@dataclass(frozen=True)
class Prefill:
    """One prompt after its prefill.

    Attributes:
        token_ids: `[P]` int64.
        keys, values: `[L, H, P, D]`.
        logits: `[V]`, of the token that follows.
        queries: `[L, Hq, w, D]`, the last queries; None unless a method keeps queries.
        mass: `[L, H, G, P]` float32: attention that each token got, summed over the prompt's queries; None unless
            asked for.
        scaling: per layer, the factor that the model puts on the dot products of queries and keys.
    """

    token_ids: Tensor
    keys: Tensor
    values: Tensor
    logits: Tensor
    queries: Tensor | None = None
    mass: Tensor | None = None
    scaling: tuple[float, ...] = ()


@dataclass
class PrefillProbe:
    """Collects scales, queries and attention while a prompt runs through the model, layer by layer, chunk by chunk.

    `n_queries` last queries are kept (0 for none); with `with_mass` the attention of all queries is summed, block by
    block, so that no P x P matrix exists.
    """

    n_queries: int = 0
    with_mass: bool = False
    queries: dict[int, Tensor] = field(default_factory=dict)
    mass: dict[int, Tensor] = field(default_factory=dict)
    scaling: dict[int, float] = field(default_factory=dict)

    def observe(self, layer: int, query: Tensor, key: Tensor, scaling: float) -> None:
        """Look at a chunk in one layer: `query` `[1, Hq, T, D]`, `key` `[1, H, P, D]` up to its end, both rotated."""
        self.scaling[layer] = scaling
        if self.n_queries:
            before = [self.queries[layer]] if layer in self.queries else []
            self.queries[layer] = torch.cat([*before, query[0]], dim=1)[:, -self.n_queries :]
        if self.with_mass:
            n_tokens, kv_heads = key.shape[2], key.shape[1]
            first = n_tokens - query.shape[2]
            grouped = query[0].float().unflatten(0, (kv_heads, -1))
            columns = torch.arange(n_tokens, device=key.device)
            total = torch.zeros(*grouped.shape[:2], n_tokens, device=key.device)
            if layer in self.mass:
                total[..., :first] = self.mass[layer]
            for start in range(0, query.shape[2], QUERY_BLOCK):
                block = grouped[:, :, start : start + QUERY_BLOCK]
                logits = torch.einsum("hgqd,hkd->hgqk", block, key[0].float()) * scaling
                own = columns[first + start : first + start + block.shape[2], None]
                total += logits.masked_fill(columns > own, float("-inf")).softmax(-1).sum(2)
            self.mass[layer] = total

    def finish(self, token_ids: Tensor, keys: Tensor, values: Tensor, logits: Tensor) -> Prefill:
        """The prefill with what was collected."""
        queries, mass = (
            torch.stack([found[layer] for layer in sorted(found)]) if found else None
            for found in (self.queries, self.mass)
        )
        scaling = tuple(self.scaling[layer] for layer in sorted(self.scaling))
        return Prefill(token_ids, keys, values, logits, queries, mass, scaling)


def prefill_prompt(
    model: PreTrainedModel, prompt_ids: Sequence[int], n_queries: int = 0, with_mass: bool = False, *, chunk: int
) -> Prefill:
    """Run one prompt alone, `chunk` tokens at a time, inside `attention.slot_attention`.

    Args:
        n_queries, with_mass: what to collect, see `PrefillProbe`.
        chunk: tokens that run together; what a long prompt needs beside its cache grows with it.

    Raises:
        KvreproError: a model whose layers do not hand on to attention what its call was given, so no slots.
    """
    cache, probe, device = DynamicCache(), PrefillProbe(n_queries, with_mass), model.device
    ids = torch.tensor([prompt_ids], device=device)
    for part in ids.split(chunk, dim=1):
        out = model(input_ids=part, past_key_values=cache, use_cache=True, logits_to_keep=1, probe=probe)
    if len(probe.scaling) != len(cache.layers):
        raise KvreproError(
            f"model type {model.config.model_type!r}: {len(probe.scaling)} of {len(cache.layers)} layers hand on to "
            "attention what the model is called with, so it would not learn which slots are in use; use a model whose "
            "layers pass their keyword arguments on"
        )
    keys = torch.stack([layer.keys[0].to(device) for layer in cache.layers])
    values = torch.stack([layer.values[0].to(device) for layer in cache.layers])
    return probe.finish(ids[0], keys, values, out.logits[0, -1].to(device))
