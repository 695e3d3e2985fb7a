"""VaSE: the size of values decides, alone or beside sampled attention."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .base import EvictionMethod
from .query_window import QueryWindowMethod
from .views import EvictionView, layers_of


class VaSEAttnVMethod(QueryWindowMethod):
    """Slots with the widest range of values stay; the rest of the room is drawn in proportion to attention.

    Drawing without replacement is the largest of log attention plus Gumbel noise, from the eviction stream.

    Attributes:
        large_share: share of the budget that goes to large values (a quarter in the authors' scripts).

    Source: VaSE, arXiv 2606.03928, `range_sink_sample_attn`; docs/methods.md#vase_attnv.
    Deviates: sinks are known by their position.
    """

    name = "vase_attnv"
    source = "arXiv 2606.03928"
    pool = "avg"
    limits: ClassVar = {"large_share": "[0, 1]"}

    granularity: str = "head"
    sinks: int = 4
    obs_window: int = 64
    pool_kernel: int = 5
    large_share: float = 0.25

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`: above 1e6 for the slots that stay by value, else log attention plus noise."""
        shape, candidates, kept = view.cache.shape, self.candidates(view), self.schedule.kept_tokens
        n_large = min(int(self.large_share * kept), kept - self.schedule.window, candidates)
        noise, pinned = view.gumbel_noise(shape.layers, shape.kv_heads), self.pinned(view)
        scores = []
        for layers in self.layer_blocks(view):
            attention = self.smoothed(self.attention_scores(view, layers), view)
            values = view.values(layers).float()
            spread = (values.amax(-1) - values.amin(-1))[..., :candidates]
            # sinks count among the large ones, and are pinned by their position
            spread = spread.masked_fill(layers_of(pinned, layers)[..., :candidates], torch.inf)
            drawn = attention.clamp_min(1e-30).log() + noise[layers]
            large = spread.topk(n_large, dim=-1).indices
            scores.append(drawn.scatter(-1, large, 1e6 + spread.gather(-1, large).clamp(max=1e6)))
        return torch.cat(scores)


class VaSEDKVMethod(EvictionMethod):
    """Product of the sizes of key and value after a fresh random projection to `sketch` dimensions.

    Source: VaSE, arXiv 2606.03928, `cur_resample_gauss` (after CurDKV, arXiv 2509.15038); docs/methods.md#vase_dkv.
    Deviates: sinks are known by their position, and stay whatever they score (the original gives its first slots a 1).
    """

    name = "vase_dkv"
    source = "arXiv 2606.03928"
    limits: ClassVar = {"sketch": 1}

    granularity: str = "head"
    sinks: int = 4
    sketch: int = 20

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`; the heads of a layer share a projection."""
        shape = view.cache.shape
        noise = view.normal_noise(shape.layers, shape.head_dim, self.sketch) / self.sketch**0.5
        projection = noise.transpose(0, 1)[:, :, None]
        scores = []
        for layers in self.layer_blocks(view):
            stored = view.keys(layers), view.values(layers)
            keys, values = ((vectors.float() @ projection[layers]).square().sum(-1) for vectors in stored)
            product = keys * values
            scores.append(product / product.sum(-1, keepdim=True))
        return torch.cat(scores)
