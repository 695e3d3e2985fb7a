"""ForesightKV: a trained judge reads key, value and past attention of each slot and says what to drop."""

from __future__ import annotations

from dataclasses import field
from itertools import groupby

import torch
from torch import Tensor
from torch.nn import functional

from ..cache.prefill import Prefill
from ..cache.probes import masked_attention
from ..cache.shape import CacheShape
from ..cache.slots import CompressedCache
from ..errors import KvreproError
from .learned.judge import EvictionJudge, add_block, attention_features, judge_features
from .query_window import QueryWindowMethod
from .views import EvictionView, RowNumbers, StepView, layers_of

RUNNING, DECAYED, COUNTED = "running_mass", "decayed_mass", "counted_queries"


class ForesightKVMethod(QueryWindowMethod):
    """Drop what a trained judge scores highest, from features of the last block of queries and of all before.

    A block is as many queries as lie between two evictions, and blocks are counted back from the first eviction.

    Attributes:
        judge: trained head (`kvrepro train-judge`).
        sample: draw the slots to drop among the twice as many highest, in proportion to the softmax of their scores
            (as published); False drops the highest.

    Source: ForesightKV, arXiv 2602.03203, `evaluation/rkv/compression/foresightkv.py`;
    docs/methods.md#foresight_kv.
    Deviates: the short sums cover the last 16, 8 and 32 queries, as the names say (in the code the slice hits another
    axis and all three equal the full sum), and the decayed sum is carried along instead of rebuilt. The prompt counts
    as one block of the decayed sum, so no queries are kept beyond a block. At a row's first eviction maximum, minimum
    and sum cover the last block, as in the original's training and at all later ones (its code covers all queries that
    it has kept so far, up to 1,500). Features lie query head by query head, in the original's weights feature by
    feature.
    """

    name = "foresight_kv"
    source = "arXiv 2602.03203"
    state = "queries; two sums [L, B, Hq, S]"
    needs = ("judge",)
    sees_all = True

    granularity: str = "head"
    sample: bool = True
    judge: EvictionJudge | None = field(default=None, repr=False, compare=False)

    @property
    def ring_width(self) -> int:
        """The queries since the last eviction."""
        return self.schedule.period_steps

    @property
    def probe_sizes(self) -> tuple[int, bool]:
        """The prompt's last queries, and how much each of its tokens was attended."""
        return self.ring_width, True

    def prepare(self, cache: CompressedCache) -> None:
        """Two sums per slot and query head, and how many queries of a row are in them."""
        sizes, shape = self.judge.sizes, cache.shape
        expected = (shape.layers, shape.kv_heads, shape.head_dim, shape.q_heads // shape.kv_heads)
        if tuple(sizes.values()) != expected:
            raise KvreproError(f"the judge is for {sizes}, the model has {expected}: it belongs to another model")
        super().prepare(cache)
        self.judge.to(cache.kv.device)
        for name in (RUNNING, DECAYED):
            cache.add_slot_state(name, shape.layers, shape.q_heads)
        cache.add_row_state(COUNTED, dtype=torch.int64)

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: object) -> None:
        """The prompt's queries, and its attention as the first block of the sums."""
        super().admit(cache, row, prefill, request)
        n_prompt = len(prefill.token_ids)
        for name in (RUNNING, DECAYED):
            cache.slot_state[name][:, row, :, :n_prompt] = prefill.mass.flatten(1, 2)
        cache.row_state[COUNTED][row] = n_prompt

    @torch.no_grad()
    def observe(self, step: StepView) -> None:
        """Before a row's first eviction its queries outgrow the ring: add every full block to the sums in time."""
        peak = self.schedule.peak_tokens
        ends = [(n, row) for row, n in enumerate(step.cache.lengths) if n < peak and not (peak - n) % self.ring_width]
        for length, group in groupby(sorted(ends), key=lambda end: end[0]):
            rows = [row for _, row in group]
            # only rows and slots are looked at; the rest of a view is for evictions
            nothing = [0] * len(rows)
            view = EvictionView.of(step.cache, length, RowNumbers(rows, nothing, nothing, nothing, nothing))
            for layers in self.layer_blocks(view):
                self._observe_block(view, layers)
            step.cache.row_state[COUNTED][view.rows] = view.seen

    @torch.no_grad()
    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`: minus the judge's score; what is safe from the draw scores above all others."""
        candidates, dropped = self.candidates(view), view.length - self.schedule.kept_tokens
        to_drop = self._at_granularity(super().score(view), view)[..., :candidates]
        view.cache.row_state[COUNTED][view.rows] = view.seen
        if self.sample and dropped > 0:
            # what is pinned cannot be dropped, so it takes no place among those that may be
            to_drop = to_drop.masked_fill(self.pinned(view)[..., :candidates], -torch.inf)
            highest = to_drop.topk(min(2 * dropped, candidates), dim=-1).indices
            noise = view.gumbel_noise()[..., :candidates]
            drawn = to_drop.gather(-1, highest) + noise.gather(-1, highest)
            # the others are safe: far below anything that can be drawn
            to_drop = torch.full_like(to_drop, -1e6).scatter(-1, highest, drawn)
        return functional.pad(-to_drop, (0, view.length - candidates))

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """The judge's score, `[l, R, H, S]`; carries the sums over the block."""
        features = attention_features(*self._observe_block(view, layers))
        return self.judge(judge_features(view.keys(layers), view.values(layers), features), layers)

    def values_per_slot(self, shape: CacheShape) -> int:
        """Attention of the block, or keys and values."""
        return max(shape.q_heads * self.ring_width, shape.kv_heads * shape.head_dim * 2)

    def _observe_block(self, view: EvictionView, layers: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Attention of the last block `[l, R, H, G, q, S]` and the two sums with it `[l, R, H, G, S]`, now carried."""
        queries, positions = view.queries(layers, self.ring_width)
        unseen = layers_of(view.positions, layers)[:, :, :, None, None] > positions[None, :, None, None, :, None]
        # a query that sees none of the slots held attends to nothing
        mass = torch.nan_to_num(masked_attention(queries, view.keys(layers), unseen, view.scaling(layers)))
        # the first blocks reach back into the prompt, whose queries are in the sums already
        fresh = positions >= view.cache.row_state[COUNTED][view.rows][:, None]
        before = (view.state(name, layers).unflatten(2, mass.shape[2:4]) for name in (RUNNING, DECAYED))
        sums = add_block(*before, mass * fresh[None, :, None, None, :, None])
        for name, total in zip((RUNNING, DECAYED), sums, strict=True):
            view.set_state(name, total.flatten(2, 3), layers)
        return mass, *sums
