"""ForesightKV: a trained judge reads key, value and past attention of each slot and says what to drop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from ..cache import CompressedCache
from ..errors import KvreproError
from ..judge import EvictionJudge
from .query_window import QueryWindowMethod
from .views import EvictionView

RUNNING, DECAYED = "running_mass", "decayed_mass"
RECENT = (16, 8, 32)  # queries of the three short sums
DECAY = 0.9  # of the running sum, per eviction


def attention_features(mass: Tensor, running: Tensor, decayed: Tensor) -> Tensor:
    """The eight features of a slot and query head: max, min and sum over the block, three short sums, two long ones.

    Args:
        mass: `[..., q, S]`, attention of the block's queries, oldest first.
        running, decayed: `[..., S]`, sums over everything before the block and the block itself.

    Returns:
        `[..., S, 8]`.
    """
    short = [mass[..., -n:, :].sum(-2) for n in RECENT]
    return torch.stack([mass.amax(-2), mass.amin(-2), mass.sum(-2), *short, running, decayed], dim=-1)


@dataclass(frozen=True)
class ForesightKVMethod(QueryWindowMethod):
    """Drop what a trained judge scores highest, from features of the last block of queries and of all before.

    Attributes:
        judge: trained head (`kvrepro train-judge`).
        sample: draw the slots to drop among the twice as many highest, in proportion to the softmax of their scores
            (as published); False drops the highest.

    Source: ForesightKV, arXiv 2602.03203, `evaluation/rkv/compression/foresightkv.py`; METHODS.md section 2.14.
    Deviates: the short sums cover the last 16, 8 and 32 queries, as the names say (in the code the slice hits another
    axis and all three equal the full sum), and the decayed sum is carried along instead of rebuilt.
    """

    name: ClassVar[str] = "foresight_kv"
    source: ClassVar[str] = "arXiv 2602.03203"
    state: ClassVar[str] = "queries; two sums [L, B, Hq, S]"
    needs: ClassVar[tuple[str, ...]] = ("judge",)
    sees_all: ClassVar[bool] = True

    granularity: str = "head"
    sample: bool = True
    judge: EvictionJudge | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.judge is None:
            raise KvreproError(
                "foresight_kv needs a trained judge and this model has none: train one with "
                "`kvrepro train-judge MODEL` or give its folder with judge=..."
            )

    @property
    def ring_width(self) -> int:
        """The queries since the last eviction."""
        return self.schedule.period_steps

    def prepare(self, cache: CompressedCache) -> None:
        """Two sums per slot and query head."""
        sizes = self.judge.sizes
        shape = cache.shape
        expected = (shape.layers, shape.kv_heads, shape.head_dim, shape.q_heads // shape.kv_heads)
        if tuple(sizes.values()) != expected:
            raise KvreproError(f"the judge is for {sizes}, the model has {expected}: it belongs to another model")
        super().prepare(cache)
        for name in (RUNNING, DECAYED):
            cache.add_slot_state(name, shape.layers, shape.q_heads)

    @torch.no_grad()
    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`: minus the judge's score; what is safe from the draw scores above all others."""
        kept = self.schedule.kept_tokens - self.schedule.window
        candidates = view.length - self.schedule.window
        dropped = candidates - kept
        shape = view.cache.shape
        group = shape.q_heads // shape.kv_heads
        scores = []
        for layers in view.layer_blocks(max(shape.q_heads * self.ring_width, shape.kv_heads * shape.head_dim * 2)):
            features = torch.cat(
                [view.keys(layers).float(), view.values(layers).float(), self._attention(view, layers, group)], dim=-1
            )
            scores.append(self.judge(features, layers))
        found = torch.cat(scores)[..., :candidates]
        if self.sample and 0 < 2 * dropped < candidates:
            noise = -torch.log(-torch.log(view.uniform_noise(shape.layers, shape.kv_heads)))[..., :candidates]
            highest = found.topk(2 * dropped, dim=-1).indices
            drawn = found.gather(-1, highest) + noise.gather(-1, highest)
            # the others are safe: far below anything that can be drawn
            found = torch.full_like(found, -1e6).scatter(-1, highest, drawn)
        window = found.new_zeros(*found.shape[:-1], view.length - candidates)
        return torch.cat([-found, window], dim=-1)

    def _attention(self, view: EvictionView, layers: slice, group: int) -> Tensor:
        """`[l, R, H, S, 8 G]`; also carries the two sums on."""
        queries, positions = view.queries(layers, self.ring_width)
        keys = view.keys(layers)
        slots = view.positions[layers] if view.positions.shape[0] > 1 else view.positions
        logits = torch.einsum("lrhgqd,lrhsd->lrhgqs", queries.float(), keys.float()) * keys.shape[-1] ** -0.5
        unseen = slots[:, :, :, None, None] > positions[None, :, None, None, :, None]
        mass = torch.nan_to_num(logits.masked_fill(unseen, float("-inf")).softmax(-1))
        mass = mass * (positions >= 0)[None, :, None, None, :, None]
        block = mass.sum(-2).flatten(2, 3)
        sums = []
        for name, decay in ((RUNNING, 1.0), (DECAYED, DECAY)):
            stored = view.cache.slot_state[name]
            total = decay * stored[layers][:, view.rows, :, : view.length] + block
            stored[layers, view.rows, :, : view.length] = total
            sums.append(total.unflatten(2, (-1, group)))
        features = attention_features(mass, *sums)
        return features.transpose(3, 4).flatten(4)
