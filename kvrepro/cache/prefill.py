"""Passes over a whole text: a prompt's prefill, and a finished sequence that a probe looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..errors import KvreproError
from .probes import PrefillProbe, Probe
from .rotary import check_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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


def prefill_prompt(
    model: PreTrainedModel, prompt_ids: Sequence[int], n_queries: int = 0, with_mass: bool = False, *, chunk: int
) -> Prefill:
    """Run one prompt alone, `chunk` tokens at a time, inside `attention.slot_attention`; collect what `PrefillProbe`
    can.

    What a long prompt needs beside its cache grows with `chunk`. Raises `KvreproError` for a model whose layers do not
    hand on to attention what its call was given, so no slots.
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
    # layers come in order, so the dicts are in order
    queries, mass = (torch.stack(list(found.values())) if found else None for found in (probe.queries, probe.mass))
    scaling = tuple(probe.scaling.values())
    return Prefill(ids[0], keys, values, out.logits[0, -1].to(device), queries, mass, scaling)


def observe_sequence(model: PreTrainedModel, token_ids: Sequence[int], probe: Probe) -> Any:
    """Show a probe every layer of one pass over a whole sequence with full attention; returns the model's output.

    Its logits are of the last token only. Raises `KvreproError` for a sequence beyond the model's fixed frequencies, or
    attention that slots do not offer.
    """
    # loads what a model is made of, for which commands that only look at methods would wait
    from .attention import slot_attention

    check_length(model.config, len(token_ids))
    ids = torch.tensor([list(token_ids)], device=model.device)
    with slot_attention(model):
        return model(input_ids=ids, use_cache=False, logits_to_keep=1, probe=probe)
