"""The attention function that lets an unmodified Hugging Face model decode over a slot cache.

Rows of one batch may hold different numbers of slots; the cache says which slots of a row are in use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface

from ..errors import KvreproError
from ..kernels.reference.attention import biased_attention
from .probes import Probe
from .shape import acting_window
from .slots import CompressedCache

SLOTS = "kvrepro_slots"


def slots_attention(
    module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    slots: CompressedCache | None = None,
    probe: Probe | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Decode over `slots` (a `CompressedCache`) when it is given, ordinary causal attention otherwise.

    Args:
        query: `[B, Hq, T, D]`; `T` is 1 when decoding.
        key, value: `[B, H, S, D]`, what the cache's `update` returned.
        slots: the cache; it biases against empty slots and is shown queries and attention if a method asked for them.
        probe: is shown queries and keys (only without `slots`).

    Raises `KvreproError` where the model asks for what slots do not offer: sinks, soft cap, sliding window, own mask.
    """
    if acting_window(module.config) is None:
        kwargs.pop("sliding_window", None)
    for name in ("s_aux", "softcap", "sliding_window"):
        if kwargs.get(name) is not None:
            raise KvreproError(
                f"{type(module).__name__} asks for attention with {name}={kwargs[name]!r}, which the compressed cache "
                "does not support; use a model with plain softmax attention in every layer"
            )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if slots is None:
        if probe is not None:
            probe.observe(module.layer_idx, query, key, scaling)
        n_new, n_seen = query.shape[2], key.shape[2]
        if attention_mask is None and 1 < n_new < n_seen:
            # a later chunk of a prompt: SDPA's own causal mask would align its first query with the first key
            at = torch.arange(n_seen, device=query.device)
            attention_mask = (at <= at[n_seen - n_new :, None])[None, None]
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    if attention_mask is not None:
        raise KvreproError(
            f"{type(module).__name__} masks keys by a rule of its own, which the compressed cache does not support; "
            "use a model with plain softmax attention in every layer"
        )
    if slots.static_step is not None:
        return slots.static_step.attend(module.layer_idx, query[:, :, 0], key, value, scaling)[:, None], None
    home, query = query.device, query.to(key.device)
    out, mass = biased_attention(
        query[:, :, 0], key, value, slots.attention_bias, scaling, with_mass=slots.on_mass is not None
    )
    slots.observe(module.layer_idx, query[:, :, 0], mass)
    return out[:, None].to(home), None


def no_mask(*args, attention_mask: Tensor | None = None, **kwargs) -> None:
    """The cache knows which slots are in use; a mask over positions would be wrong after an eviction.

    Raises `KvreproError` for a mask that hides something.
    """
    if attention_mask is not None and not attention_mask.all():
        raise KvreproError(
            "slot attention knows no padding, and attention_mask hides some: prefill each prompt alone "
            "(`kvrepro.prefill_prompt`), or call the model inside `kvrepro.compressing`"
        )


AttentionInterface.register(SLOTS, slots_attention)
AttentionMaskInterface.register(SLOTS, no_mask)


@contextmanager
def slot_attention(model: PreTrainedModel, cache: CompressedCache | None = None) -> Iterator[PreTrainedModel]:
    """Run `model` with slot attention inside the block; what it used before comes back afterwards.

    With `cache`, its rows may differ in length inside the block; pass `position_ids` and `slots` to the model.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(SLOTS)
    if cache is not None:
        cache.in_slot_attention = True
    try:
        yield model
    finally:
        model.set_attn_implementation(before)
        if cache is not None:
            cache.in_slot_attention = False
