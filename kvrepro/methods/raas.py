"""RaaS: the token that has not mattered for the longest time leaves."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..cache.slots import CompressedCache
from .step_attention import StepAttentionMethod
from .views import EvictionView

STAMP = "last_mattered"


class RaaSMethod(StepAttentionMethod):
    """Each step, the slots in the upper half by attention get the step as their timestamp; the oldest leaves.

    Prompt tokens start at 0.

    Attributes:
        refreshed_share: share of the slots that get a new timestamp at a step.

    Source: RaaS, arXiv 2502.11147, whose rule is known second-hand; docs/methods.md#raas.
    Deviates: tokens instead of pages of 16; the newest token always gets a timestamp; ties, which are common, go to
    the more recent token; per KV head, the query group averaged.
    """

    name = "raas"
    source = "arXiv 2502.11147"
    state = "timestamp [L, B, H, S]"
    carried = (STAMP,)
    limits: ClassVar = {"refreshed_share": "(0, 1]"}

    pin_question: bool = True
    refreshed_share: float = 0.5

    def attended(self, cache: CompressedCache, layer: int, attention: Tensor) -> None:
        """Stamp what mattered at this step."""
        rows, _, _, span = attention.shape
        stamps, mass = cache.slot_state[STAMP], attention.mean(2)
        # the threshold counts a row's own slots; those beyond its length have no attention
        lengths = cache.step_slots + 1
        rank = ((1 - self.refreshed_share) * lengths + (span - lengths)).long()[:, None, None]
        threshold = mass.sort(-1).values.gather(-1, rank.expand(-1, mass.shape[1], 1).clamp(max=span - 1))
        step = cache.step_positions.float()
        current = stamps[layer, :rows, :, :span]
        current.copy_(step[:, None, None].where(mass >= threshold, current))
        stamps[layer, cache.step_rows, :, cache.step_slots] = step[:, None]

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]` float64: the timestamp, then recency."""
        # in float32 a stamp of 16384 would leave steps of 1/512 for the recency below it
        recency = view.positions.double() / (view.seen + 1).double()[None, :, None, None]
        return view.state(STAMP).double() + recency
