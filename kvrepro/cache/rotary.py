"""Rotary position embedding as a model applies it, for methods that need keys or queries without it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache

from ..errors import KvreproError

# a key is compared at this position and at 0; few enough tokens for any scaling of long contexts to be at rest
FAR_POSITION = 16
# how much closer the best form must come than the next: rounding in bfloat16 stays well below
FORM_MARGIN = 0.2
NEEDED_BY = "methods that undo the rotation (triattention, expected_attention, streaming_llm with reindex)"


@dataclass(frozen=True)
class Rotary:
    """The rotation that a model gives its queries and keys (RoPE, arXiv 2104.09864).

    Attributes:
        frequencies: `[D/2]` float32, radians per position, long-context scaling included.
        scaling: factor on cos and sin (1 for plain RoPE).
        interleaved: channel `2f` pairs with `2f + 1` (Cohere); else `f` with `f + D/2` (Llama and most others).
        rotates: per layer, whether it rotates at all (SmolLM3 leaves some layers out); None where all do.

    Where a function takes `layers`, they are those that the first dimension of its tensor holds.
    """

    frequencies: Tensor
    scaling: float = 1.0
    interleaved: bool = False
    rotates: tuple[bool, ...] | None = None

    @classmethod
    def of(cls, model) -> Rotary:
        """Read the rotation of a Hugging Face decoder, and see from two of its keys which channels and layers turn.

        Raises `KvreproError` for a model that does not rotate, rotates a part of each head, or otherwise than known.
        """
        body = getattr(model, model.base_model_prefix, model)
        embedding = getattr(body, "rotary_emb", None)
        name = f"model type {model.config.model_type!r}"
        if embedding is None or not hasattr(embedding, "inv_freq"):
            raise KvreproError(f"{name} has no single rotary embedding; {NEEDED_BY} cannot run on it")
        text = model.config.get_text_config(decoder=True)
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        if 2 * len(embedding.inv_freq) != size:
            raise KvreproError(
                f"{name} rotates {2 * len(embedding.inv_freq)} of {size} channels per head; partial rotation is not "
                f"supported by {NEEDED_BY}"
            )
        here, far = _keys_at(model, 0), _keys_at(model, FAR_POSITION)
        # after a run of few tokens: what a longer one has left in the module is gone
        plain = cls(embedding.inv_freq.float(), float(getattr(embedding, "attention_scaling", 1.0)))
        forms = [_rotation_form(plain, *keys) for keys in zip(here, far, strict=True)]
        if None in forms or len(set(forms) - {"none"}) > 1:
            raise KvreproError(
                f"{name} turns the keys of layer {forms.index(None) if None in forms else 0} neither in the channel "
                f"pairs (f, f + {size // 2}) nor (2f, 2f + 1) of its rotary embedding, or not in the same ones in all "
                f"layers; {NEEDED_BY} cannot run on it"
            )
        rotates = None if "none" not in forms else tuple(form != "none" for form in forms)
        return cls(plain.frequencies, plain.scaling, "interleaved" in forms, rotates)

    @cached_property
    def _is_rotated(self) -> Tensor:
        """`rotates` on the device, sent there once."""
        return torch.tensor(self.rotates, device=self.frequencies.device)

    def angles(self, positions: Tensor) -> Tensor:
        """`[..., D/2]` float32 of integer `positions` `[...]`."""
        return positions[..., None].float() * self.frequencies.to(positions.device)

    def rates(self, layers: slice) -> tuple[Tensor, Tensor | float]:
        """Frequencies and scaling of some layers, 0 and 1 where nothing turns: `[D/2]`, or `[l, 1, 1, 1, D/2 or 1]`."""
        if self.rotates is None:
            return self.frequencies, self.scaling
        is_rotated = self._is_rotated[layers].view(-1, 1, 1, 1, 1)
        return is_rotated * self.frequencies, torch.where(is_rotated, self.scaling, 1.0)

    def rotate(self, x: Tensor, positions: Tensor, *, scaled: bool = True, layers: slice = slice(None)) -> Tensor:
        """Rotate `x` `[..., D]` by `positions` (broadcast to `[...]`); computed in float32, returned in x's dtype."""
        factor, angles = self.scaling if scaled else 1.0, self.angles(positions)
        return self.rotate_pairs(x.float(), angles.cos() * factor, angles.sin() * factor, layers).to(x.dtype)

    def unrotate(self, x: Tensor, positions: Tensor, *, layers: slice = slice(None)) -> Tensor:
        """Undo `rotate`, scaling included."""
        angles = self.angles(positions)
        cos, sin = angles.cos() / self.scaling, -angles.sin() / self.scaling
        return self.rotate_pairs(x.float(), cos, sin, layers).to(x.dtype)

    def rotate_pairs(self, x: Tensor, cos: Tensor, sin: Tensor, layers: slice = slice(None)) -> Tensor:
        """Rotate the channel pairs of `x` `[..., D]` by angles given as `cos`, `sin` `[..., D/2]`."""
        left, right = self.halves(x).chunk(2, dim=-1)
        rotated = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
        if self.interleaved:
            rotated = rotated.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)
        if self.rotates is None:
            return rotated
        is_rotated = self._is_rotated.to(x.device)[layers].view(-1, *[1] * (x.dim() - 1))
        return torch.where(is_rotated, rotated, x)

    def halves(self, x: Tensor) -> Tensor:
        """`x` `[..., D]` with channels in the order in which `f` pairs with `f + D/2`."""
        return x.unflatten(-1, (-1, 2)).transpose(-1, -2).flatten(-2) if self.interleaved else x


def check_length(config, longest: int) -> None:
    """Refuse sequences of so many tokens where RoPE's frequencies (`dynamic`, `longrope`) would change on the way.

    A model's rotary embedding takes one set of frequencies per call, that of the longest row: rows would depend on
    their neighbours, and keys that were cached before would not fit the queries after.
    """
    text = config.get_text_config(decoder=True)
    given = getattr(text, "rope_parameters", None) or {}
    # one set of parameters, or one per type of layer
    for rope in [p for p in given.values() if isinstance(p, dict)] or [given]:
        kind = rope.get("rope_type") or "default"
        if kind != "longrope" and "dynamic" not in kind:
            continue
        original = text.max_position_embeddings
        if kind == "longrope":
            original = rope.get("original_max_position_embeddings", original)
        if longest > original:
            raise KvreproError(
                f"model type {config.model_type!r} has RoPE of type {kind!r}, whose frequencies change beyond "
                f"{original} tokens; sequences of up to {longest} tokens would cross that, and rows of a batch would "
                "take each other's frequencies. Keep prompt and max_new_tokens within it, or load the model with "
                "rope_parameters that do not depend on the length (default, linear, llama3, yarn)"
            )


@torch.no_grad()
def _keys_at(model, position: int) -> Tensor:
    """Keys `[L, H, D]` of one token that stands alone: all but their rotation is the same at any position."""
    cache, device = DynamicCache(), model.device
    token = model.config.get_text_config(decoder=True).vocab_size // 2
    ids, positions = torch.tensor([[token]], device=device), torch.tensor([[position]], device=device)
    model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    return torch.stack([layer.keys[0, :, 0].to(device) for layer in cache.layers])


def _rotation_form(plain: Rotary, here: Tensor, far: Tensor) -> str | None:
    """How the keys `[H, D]` of one layer turned: `none`, `halves` or `interleaved`; None if otherwise."""
    pairwise = Rotary(plain.frequencies, interleaved=True)
    position = torch.tensor(FAR_POSITION, device=here.device)
    expected = {
        "none": here,
        "halves": plain.rotate(here.float(), position, scaled=False),
        "interleaved": pairwise.rotate(here.float(), position),
    }
    distance = {form: float((keys.float() - far.float()).norm()) for form, keys in expected.items()}
    best, second, _ = sorted(distance, key=distance.get)
    return best if distance[best] <= FORM_MARGIN * distance[second] else None
