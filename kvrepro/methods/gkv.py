"""G-KV: attention now and attention remembered, minus redundancy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..cache.slots import CompressedCache
from ..errors import KvreproError
from .query_window import QueryWindowMethod
from .rkv import check_mix, redundancy
from .views import EvictionView

GLOBAL = "global_score"
UNSCORED = -1.0


@dataclass(frozen=True)
class GKVMethod(QueryWindowMethod):
    """`mix * F - (1 - mix) * redundancy` with `F = max(decay * F_before, f)`, `f` the normalised local attention.

    Attributes:
        decay: alpha of the paper. mix: lambda of the paper. threshold: cosine above which keys are similar.

    Source: G-KV, arXiv 2512.00504, `gkv/model/compression/score_based.py`; docs/methods.md#gkv.
    Deviates: a prompt longer than the budget is refused (the original compresses it while it reads it).
    """

    name: ClassVar[str] = "gkv"
    source: ClassVar[str] = "arXiv 2512.00504"
    state: ClassVar[str] = "queries; F [L, B, H, S]"

    granularity: str = "head"
    group: str = "max"
    obs_window: int = 16
    decay: float = 0.8
    mix: float = 0.5
    threshold: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_mix(self.mix)
        if not 0 <= self.decay <= 1:
            raise KvreproError(f"decay={self.decay}: must lie in [0, 1]")

    def prepare(self, cache: CompressedCache) -> None:
        """The remembered score of every slot."""
        super().prepare(cache)
        cache.add_slot_state(GLOBAL, cache.shape.layers, cache.shape.kv_heads, fill=UNSCORED)

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`; remembers `F` of the candidates."""
        candidates = view.length - self.schedule.window
        found, remembered = [], view.state(GLOBAL)[..., :candidates]
        for layers in self.layer_blocks(view):
            local = self.attention_scores(view, layers, candidates_only=False)[..., :candidates]
            local = local / local.amax(-1, keepdim=True).clamp_min(1e-30)
            # a slot that was never scored holds a negative value and takes the local score
            merged = torch.maximum(self.decay * remembered[layers], local)
            similar = redundancy(view, layers, self.threshold, spare_first=False)[..., :candidates]
            similar = similar / similar.amax(-1, keepdim=True)
            found.append((merged, self.mix * merged - (1 - self.mix) * similar))
        view.set_state(GLOBAL, torch.cat([merged for merged, _ in found]))
        scores = torch.cat([score for _, score in found])
        window = scores.new_zeros(*scores.shape[:-1], view.length - candidates)
        return torch.cat([scores, window], dim=-1)
