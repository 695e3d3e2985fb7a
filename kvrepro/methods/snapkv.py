"""SnapKV while decoding: the slots that the last queries attend to."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..errors import KvreproError
from .query_window import QueryWindowMethod
from .views import EvictionView


class SnapKVMethod(QueryWindowMethod):
    """Pooled mean attention of the last `obs_window` queries over the candidates, per layer and KV head.

    Source: SnapKV, arXiv 2404.14469, in the decoding variant of R-KV (`rkv/compression/snapkv.py`; window 8, max over
    the group's logits, max pooling of 7); docs/methods.md#snapkv.
    """

    name = "snapkv"
    source = "arXiv 2404.14469, decoding variant"
    limits: ClassVar = {"pool": ("max", "avg")}

    granularity: str = "head"
    group: str = "max_logits"
    pool_kernel: int = 7
    pool: str = "max"

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, H, S]`."""
        return self.smoothed(self.attention_scores(view, layers), view)


class SnapKVDynTSMethod(QueryWindowMethod):
    """Attention of the last steps summed, mean over layers and heads, no pooling, one kept set.

    The published sum starts one step early at first and two steps early later, so it covers `obs_window` + 1 steps
    before the first eviction of a row and + 2 before the others.

    Source: DynTS, arXiv 2601.18383, `inference/snapkv.py`; docs/methods.md#snapkv_dynts.
    Deviates: where a prompt is so long that the first sum would start inside it, its own last queries count (the
    published sum never starts and the code fails).
    """

    name = "snapkv_dynts"
    source = "DynTS repository"
    sees_all = True

    obs_window: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        s = self.schedule
        if s is not None and s.period_steps < self.ring_width:
            raise KvreproError(
                f"evictions come every {s.period_steps} tokens, {self.name} sums the attention of "
                f"{self.ring_width} steps since the last one (obs_window={self.obs_window} and 2): the published code "
                "fails there. Lower obs_window, lower ratio, or raise evict_every"
            )

    @property
    def ring_width(self) -> int:
        """Two more steps than the name says."""
        return self.obs_window + 2

    def score(self, view: EvictionView) -> Tensor:
        """`[1, R, 1, S]`: the sum over steps of the mean over layers and query heads."""
        width = self.obs_window + 1 + (view.evictions > 0).long()
        total = sum(
            self.attention_scores(view, layers, width=width, candidates_only=False, total=True).sum(0, keepdim=True)
            for layers in self.layer_blocks(view)
        )
        return total.mean(2, keepdim=True) / view.cache.shape.layers
