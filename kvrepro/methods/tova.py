"""TOVA: the slots that the newest query attends to."""

from __future__ import annotations

from torch import Tensor

from .query_window import QueryWindowMethod
from .views import EvictionView


class TOVAMethod(QueryWindowMethod):
    """Attention of the newest query, mean over all heads of a layer, one kept set per layer.

    Source: TOVA, arXiv 2401.06104, `src/tova_cache.py`; docs/methods.md#tova. As published there is no window and one
    token leaves at every step.
    """

    name = "tova"
    source = "arXiv 2401.06104"
    sees_all = True

    granularity: str = "layer"
    obs_window: int = 1

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, 1, S]`."""
        return self.attention_scores(view, layers, candidates_only=False).mean(2, keepdim=True)
