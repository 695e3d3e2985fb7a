"""Expected Attention: what queries like the recent ones, at positions to come, would attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import KvreproError
from .query_window import QueryWindowMethod
from .views import EvictionView


@dataclass(frozen=True)
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

    name: ClassVar[str] = "expected_attention"
    source: ClassVar[str] = "kvpress, Expected Attention"
    sees_all: ClassVar[bool] = True

    granularity: str = "head"
    sinks: int = 4
    obs_window: int = 128
    future: int = 512
    use_covariance: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.future < 1:
            raise KvreproError(f"future={self.future}: coming positions, must be at least 1")

    @property
    def needs_rotary(self) -> bool:
        """Queries are turned back and forward."""
        return True

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`."""
        rotary, size = view.cache.rotary, view.cache.shape.head_dim
        coming = view.seen[:, None] + torch.arange(self.future, device=view.rows.device)
        angles = rotary.angles(coming)
        # [R, 1, 1, D/2]: the average rotation is no rotation any more, but still acts on channel pairs
        cos, sin = (f(angles).mean(1)[:, None, None] * rotary.scaling for f in (torch.cos, torch.sin))
        found = []
        for layers in view.layer_blocks(view.cache.shape.q_heads * size):
            queries, positions = view.queries(layers, self.ring_width)
            # the first tokens are outliers: as queries they are not counted, as keys they are not ranked
            there = (positions >= self.sinks).float()[None, :, None, None, :, None]
            plain = rotary.unrotate(queries.float(), positions[None, :, None, None], layers=layers) * there
            count = there.sum(-2, keepdim=True).clamp(min=1)
            mean = plain.sum(-2, keepdim=True) / count
            centred = (plain - mean) * there
            mean = rotary.rotate_pairs(mean[..., 0, :], cos, sin, layers)
            keys, scaling = view.keys(layers).float(), view.scaling(layers)
            logits = torch.einsum("lrhgd,lrhsd->lrhgs", mean, keys) * scaling
            if self.use_covariance:
                covariance = centred.transpose(-1, -2) @ centred / count
                average = cos[:, :, :, None], sin[:, :, :, None]
                turned = rotary.rotate_pairs(covariance, *average, layers)
                turned = rotary.rotate_pairs(turned.transpose(-1, -2), *average, layers)
                through = torch.einsum("lrhsd,lrhgde->lrhgse", keys, turned)
                logits = logits + torch.einsum("lrhgse,lrhse->lrhgs", through, keys) * (scaling**2 / 2)
            slots = view.positions[layers] if view.positions.shape[0] > 1 else view.positions
            logits = logits.masked_fill((slots < self.sinks)[:, :, :, None], float("-inf"))
            found.append(logits.softmax(-1).mean(3) * view.values(layers).float().norm(dim=-1))
        return torch.cat(found)
