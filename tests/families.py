"""The families that are tested with small random weights: a row each, read by tests and held to docs/models.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SIZES = dict(
    vocab_size=230,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=8,
    initializer_range=0.15,
    eos_token_id=2,
    bos_token_id=1,
    pad_token_id=0,
    max_position_embeddings=256,
)
FULL = ["full_attention"] * 4


@dataclass(frozen=True)
class Family:
    """A model type of transformers, in a form that is supported or refused.

    `refusal` is part of the error's text; None is a form that must work. `what` is the page's wording.
    """

    name: str
    model_type: str
    what: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    refusal: str | None = None

    @property
    def label(self) -> str:
        """Test id."""
        return f"{self.model_type}-{'refused' if self.refusal else 'works'}"

    def config(self):
        """The small configuration of this row."""
        from transformers import AutoConfig

        return AutoConfig.for_model(self.model_type, **{**SIZES, **self.changes})


FAMILIES = (
    Family("Llama, R1-Distill-Llama, SmolLM2", "llama", "works"),
    Family("Qwen2, R1-Distill-Qwen", "qwen2", "works"),
    Family("Qwen3", "qwen3", "works"),
    Family("Mistral without a window", "mistral", "works", {"sliding_window": None}),
    Family(
        "Mistral with a window", "mistral", "refused: sliding window", {"sliding_window": 64}, "sliding window of 64"
    ),
    Family("Phi-3", "phi3", "works", {"sliding_window": None}),
    Family("Phi-4-mini, window no smaller than the longest position", "phi3", "works", {"sliding_window": 512}),
    Family(
        "Phi-3 with a window that can act",
        "phi3",
        "refused: sliding window",
        {"sliding_window": 255},
        "sliding window of 255",
    ),
    Family(
        "Qwen2, window as long as the longest position",
        "qwen2",
        "works",
        {"use_sliding_window": True, "sliding_window": 256, "max_window_layers": 2},
    ),
    Family("OLMo 2", "olmo2", "works"),
    Family("SmolLM3", "smollm3", "works"),
    Family("Cohere Command R", "cohere", "works"),
    Family("Granite", "granite", "works"),
    Family(
        "Gemma 2 as published",
        "gemma2",
        "refused: sliding-window layers, soft cap",
        {"sliding_window": 64},
        "sliding_attention",
    ),
    Family("Gemma 2, soft cap left in", "gemma2", "refused: soft cap", {"layer_types": FULL}, "soft cap of 50"),
    Family(
        "Gemma 2, global layers without soft cap",
        "gemma2",
        "works",
        {"layer_types": FULL, "attn_logit_softcapping": None},
    ),
    Family(
        "Gemma 3 as published",
        "gemma3_text",
        "refused: sliding-window layers",
        {"num_hidden_layers": 6, "sliding_window": 64},
        "sliding_attention",
    ),
    Family("Gemma 3, global layers only", "gemma3_text", "works", {"layer_types": FULL}),
    Family("GPT-OSS as published", "gpt_oss", "refused: sliding-window layers, sinks", {}, "sliding_attention"),
    Family("GPT-OSS, global layers only", "gpt_oss", "refused: sinks", {"layer_types": FULL}, "sinks"),
)
