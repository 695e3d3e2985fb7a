"""G-KV: attention now and attention remembered, minus redundancy."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..cache.slots import CompressedCache
from .query_window import QueryWindowMethod
from .rkv import redundancy
from .views import EvictionView

GLOBAL = "global_score"
UNSCORED = -1.0


class GKVMethod(QueryWindowMethod):
    """`mix * F - (1 - mix) * redundancy` with `F = max(decay * F_before, f)`, `f` the normalised local attention.

    Attributes:
        decay: alpha of the paper. mix: lambda of the paper. threshold: cosine above which keys are similar.

    Source: G-KV, arXiv 2512.00504, `gkv/model/compression/score_based.py`; docs/methods.md#gkv.
    """

    name = "gkv"
    source = "arXiv 2512.00504"
    state = "queries; F [L, B, H, S]"
    limits: ClassVar = {"mix": "[0, 1]", "decay": "[0, 1]"}

    granularity: str = "head"
    group: str = "max"
    obs_window: int = 16
    decay: float = 0.8
    mix: float = 0.5
    threshold: float = 0.5

    def prepare(self, cache: CompressedCache) -> None:
        """The remembered score of every slot."""
        super().prepare(cache)
        cache.add_slot_state(GLOBAL, cache.shape.layers, cache.shape.kv_heads, fill=UNSCORED)

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, H, S]`; remembers `F` of the candidates."""
        candidates = self.candidates(view)
        local = self.attention_scores(view, layers, candidates_only=False)[..., :candidates]
        local = local / local.amax(-1, keepdim=True).clamp_min(1e-30)
        # a slot that was never scored holds a negative value and takes the local score
        merged = torch.maximum(self.decay * view.state(GLOBAL, layers)[..., :candidates], local)
        view.set_state(GLOBAL, merged, layers)
        similar = redundancy(view, layers, self.threshold, spare_first=False)[..., :candidates]
        similar = similar / similar.amax(-1, keepdim=True)
        scores = self.mix * merged - (1 - self.mix) * similar
        return functional.pad(scores, (0, view.length - candidates))
