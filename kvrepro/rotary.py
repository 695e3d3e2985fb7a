"""Rotary position embedding as a model applies it, for methods that need keys or queries without it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import KvreproError


@dataclass(frozen=True)
class Rotary:
    """The rotation that a model gives its queries and keys (channel `f` pairs with `f + D/2`).

    Attributes:
        frequencies: `[D/2]` float32, radians per position, long-context scaling included.
        scaling: factor on cos and sin (1 for plain RoPE).
    """

    frequencies: Tensor
    scaling: float = 1.0

    @classmethod
    def of(cls, model) -> Rotary:
        """Read the rotation of a Hugging Face decoder.

        Raises:
            KvreproError: the model has no rotary embedding, or rotates only a part of each head.
        """
        body = getattr(model, model.base_model_prefix, model)
        embedding = getattr(body, "rotary_emb", None)
        if embedding is None or not hasattr(embedding, "inv_freq"):
            raise KvreproError(
                f"model type {model.config.model_type!r} has no single rotary embedding; methods that undo the "
                "rotation (triattention, expected_attention, streaming_llm with reindex) cannot run on it"
            )
        text = model.config.get_text_config(decoder=True)
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        if 2 * len(embedding.inv_freq) != size:
            raise KvreproError(
                f"model type {model.config.model_type!r} rotates {2 * len(embedding.inv_freq)} of {size} channels per "
                "head; partial rotation is not supported by this method"
            )
        return cls(embedding.inv_freq.float(), float(getattr(embedding, "attention_scaling", 1.0)))

    def angles(self, positions: Tensor) -> Tensor:
        """`[..., D/2]` float32 of integer `positions` `[...]`."""
        return positions[..., None].float() * self.frequencies.to(positions.device)

    def rotate(self, x: Tensor, positions: Tensor, *, scaled: bool = True) -> Tensor:
        """Rotate `x` `[..., D]` by `positions` (broadcast to `[...]`); computed in float32, returned in x's dtype."""
        factor = self.scaling if scaled else 1.0
        return turn(x.float(), self.angles(positions).cos() * factor, self.angles(positions).sin() * factor).to(x.dtype)

    def unrotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """Undo `rotate`, scaling included."""
        angles = self.angles(positions)
        return turn(x.float(), angles.cos() / self.scaling, -angles.sin() / self.scaling).to(x.dtype)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the channel pairs of `x` `[..., D]` by angles given as `cos`, `sin` `[..., D/2]`."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
