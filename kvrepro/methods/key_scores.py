"""Scores from the cached keys alone: their norm, or how far they point from the others."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from .base import EvictionMethod
from .views import EvictionView


class KeyDiffMethod(EvictionMethod):
    """Minus the cosine between a key and the mean direction of all keys, per layer and KV head.

    Source: KeyDiff, arXiv 2504.15364, as in kvpress; docs/methods.md#keydiff.
    Deviates: used while decoding, behind a local window; the paper compresses the prompt block by block.
    """

    name = "keydiff"
    source = "arXiv 2504.15364"

    granularity: str = "head"

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, H, S]`."""
        keys = functional.normalize(view.keys(layers).float(), dim=-1)
        return -functional.cosine_similarity(keys, keys.mean(-2, keepdim=True), dim=-1)


class KnormMethod(EvictionMethod):
    """Minus the norm of the key, per layer and KV head.

    Source: Knorm, arXiv 2406.11430, as in kvpress; docs/methods.md#knorm.
    Deviates: used while decoding, behind a local window.
    """

    name = "knorm"
    source = "arXiv 2406.11430"

    granularity: str = "head"

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, H, S]`."""
        return -view.keys(layers).float().norm(dim=-1)
