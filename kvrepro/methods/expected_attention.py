"""Expected Attention: what queries like the recent ones, at positions to come, would attend to."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..cache.shape import CacheShape
from .query_window import QueryWindowMethod
from .views import EvictionView, layers_of


class ExpectedAttentionMethod(QueryWindowMethod):
    """`softmax(mu k / sqrt(d) + k' Sigma k / 2d) * |v|` with the moments of recent queries, turned to coming positions.

    Attributes:
        obs_window: recent queries whose mean and covariance are taken.
        future: coming positions that the rotation is averaged over.
        use_covariance: with the second-order term.

    Source: Expected Attention, kvpress `expected_attention_press.py`; docs/methods.md#expected_attention.
    Deviates: the original decodes with a buffer of 256 queries, counts coming positions from the buffer's length and
    leaves out the buffer's first 4 queries at every eviction. Here the buffer holds `obs_window`, coming positions are
    counted from the row's own position, and the first queries of the sequence are left out.
    """

    name = "expected_attention"
    source = "kvpress, Expected Attention"
    sees_all = True
    needs_rotary = True
    limits: ClassVar = {"future": 1}

    granularity: str = "head"
    sinks: int = 4
    obs_window: int = 128
    future: int = 512
    use_covariance: bool = True

    def values_per_slot(self, shape: CacheShape) -> int:
        """A key turned by the covariance of each query head."""
        return shape.q_heads * shape.head_dim

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, H, S]`."""
        mean, covariance = self._moments(view, layers)
        keys, scaling = view.keys(layers).float(), view.scaling(layers)
        logits = torch.einsum("lrhgd,lrhsd->lrhgs", mean, keys) * scaling
        if self.use_covariance:
            half = torch.einsum("lrhsd,lrhgde->lrhgse", keys, covariance)  # k' Sigma k, by halves
            logits = logits + torch.einsum("lrhgse,lrhse->lrhgs", half, keys) * (scaling**2 / 2)
        sinks = layers_of(view.positions, layers) < self.sinks
        logits = logits.masked_fill(sinks[:, :, :, None], float("-inf"))
        return logits.softmax(-1).mean(3) * view.values(layers).float().norm(dim=-1)

    def _moments(self, view: EvictionView, layers: slice) -> tuple[Tensor, Tensor | None]:
        """Mean `[l, R, H, G, D]` and covariance `[l, R, H, G, D, D]` of the recent queries, at coming positions."""
        rotary = view.cache.rotary
        coming = view.seen[:, None] + torch.arange(self.future, device=view.rows.device)
        angles = rotary.angles(coming)
        # [R, 1, 1, D/2]: the average rotation is no rotation any more, but still acts on channel pairs
        cos, sin = (f(angles).mean(1)[:, None, None] * rotary.scaling for f in (torch.cos, torch.sin))
        queries, positions = view.queries(layers, self.ring_width)
        # the first tokens are outliers: as queries they are not counted, as keys they are not ranked
        is_counted = (positions >= self.sinks).float()[None, :, None, None, :, None]
        plain = rotary.unrotate(queries.float(), positions[None, :, None, None], layers=layers) * is_counted
        count = is_counted.sum(-2, keepdim=True).clamp(min=1)
        mean = plain.sum(-2, keepdim=True) / count
        at_coming = rotary.rotate_pairs(mean[..., 0, :], cos, sin, layers)
        if not self.use_covariance:
            return at_coming, None
        centred = (plain - mean) * is_counted
        covariance = centred.transpose(-1, -2) @ centred / count
        average = cos[:, :, :, None], sin[:, :, :, None]
        turned = rotary.rotate_pairs(covariance, *average, layers)
        return at_coming, rotary.rotate_pairs(turned.transpose(-1, -2), *average, layers)
