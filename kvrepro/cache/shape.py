"""The sizes of a KV cache, read from a model's configuration, and the models that a slot cache cannot serve."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import KvreproError

SINK_TYPES = ("gpt_oss",)


@dataclass(frozen=True)
class CacheShape:
    """Sizes that a model's configuration fixes."""

    layers: int
    kv_heads: int
    q_heads: int
    head_dim: int

    @classmethod
    def of(cls, config) -> CacheShape:
        """Read the sizes of a decoder; `KvreproError` for one that a slot cache cannot serve.

        Such are cross or recurrent layers, a sliding window that can act, heads of unequal size, caps and sinks.
        """
        text = config.get_text_config(decoder=True)
        name = f"model type {config.model_type!r}"
        plain = "the compressed cache needs a decoder with full softmax attention in every layer"
        if getattr(config, "is_encoder_decoder", False):
            raise KvreproError(f"{name} uses cross attention; {plain}")
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        window = acting_window(text)
        if not window and getattr(text, "sliding_window", None):
            kinds.discard("sliding_attention")
        if kinds - {"full_attention"}:
            raise KvreproError(f"{name} has layers of type {', '.join(sorted(kinds - {'full_attention'}))}; {plain}")
        if window and not getattr(text, "layer_types", None):
            raise KvreproError(f"{name} has a sliding window of {window} tokens; {plain}")
        # caps and sinks change the softmax itself; the slot attention would silently leave them out
        if cap := getattr(text, "attn_logit_softcapping", None):
            raise KvreproError(f"{name} has an attention soft cap of {cap:g}; {plain}")
        if text.model_type in SINK_TYPES:
            raise KvreproError(f"{name} has attention sinks (a learned logit per head); {plain}")
        if not hasattr(text, "num_attention_heads") or getattr(text, "kv_lora_rank", None):
            raise KvreproError(f"{name} has no plain attention heads; {plain}")
        q_heads = text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or q_heads
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // q_heads
        return cls(text.num_hidden_layers, kv_heads, q_heads, head_dim)


def acting_window(text) -> int | None:
    """The sliding window of a decoder's configuration, tokens; None where there is none, or none that can act.

    A window that is no smaller than the longest position hides nothing (Phi-4-mini's is twice that).
    """
    window = getattr(text, "sliding_window", None)
    if not window or not getattr(text, "use_sliding_window", True):
        return None
    longest = getattr(text, "max_position_embeddings", None)
    return None if longest is not None and window >= longest else window
