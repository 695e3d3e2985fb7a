"""TOVA: the slots that the newest query attends to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .query_window import QueryWindowMethod
from .views import EvictionView


@dataclass(frozen=True)
class TOVAMethod(QueryWindowMethod):
    """Attention of the newest query, mean over all heads of a layer, one kept set per layer.

    Source: TOVA, arXiv 2401.06104, `src/tova_cache.py`; docs/methods.md#tova. As published there is no window and one
    token leaves at every step.
    """

    name: ClassVar[str] = "tova"
    source: ClassVar[str] = "arXiv 2401.06104"
    sees_all: ClassVar[bool] = True

    granularity: str = "layer"
    obs_window: int = 1

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, 1, S]`."""
        found = [self.attention_scores(view, layers, candidates_only=False) for layers in self.layer_blocks(view)]
        return torch.cat(found).mean(2, keepdim=True)
