"""RaaS: the token that has not mattered for the longest time leaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..cache.slots import CompressedCache
from ..errors import KvreproError
from .base import EvictionMethod
from .views import EvictionView

STAMP = "last_mattered"


@dataclass(frozen=True)
class RaaSMethod(EvictionMethod):
    """Each step, the slots in the upper half by attention get the step as their timestamp; the oldest leaves.

    Attributes:
        refreshed_share: share of the slots that get a new timestamp at a step.

    Source: RaaS, arXiv 2502.11147, whose rule is known second-hand; docs/methods.md#raas.
    Deviates: tokens instead of pages of 16; the newest token always gets a timestamp; ties, which are common, go to
    the more recent token; per KV head, the query group averaged.
    """

    name: ClassVar[str] = "raas"
    source: ClassVar[str] = "arXiv 2502.11147"
    state: ClassVar[str] = "timestamp [L, B, H, S]"
    attention: ClassVar[str] = "step"

    granularity: str = "head"
    pin_question: bool = True
    refreshed_share: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.refreshed_share <= 1:
            raise KvreproError(f"refreshed_share={self.refreshed_share}: must lie in (0, 1]")

    def prepare(self, cache: CompressedCache) -> None:
        """A timestamp per slot; prompt tokens start at 0."""
        stamps = cache.add_slot_state(STAMP, cache.shape.layers, cache.shape.kv_heads)

        def observe(cache: CompressedCache, layer: int, attention: Tensor) -> None:
            rows, _, _, span = attention.shape
            mass = attention.mean(2)
            # the threshold counts a row's own slots; those beyond its length have no attention
            lengths = cache.step_slots + 1
            rank = ((1 - self.refreshed_share) * lengths + (span - lengths)).long()[:, None, None]
            threshold = mass.sort(-1).values.gather(-1, rank.expand(-1, mass.shape[1], 1).clamp(max=span - 1))
            step = cache.step_positions.float()
            current = stamps[layer, :rows, :, :span]
            current.copy_(step[:, None, None].where(mass >= threshold, current))
            stamps[layer, cache.step_rows, :, cache.step_slots] = step[:, None]

        cache.on_mass = observe

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]` float64: the timestamp, then recency."""
        # in float32 a stamp of 16384 would leave steps of 1/512 for the recency below it
        recency = view.positions.double() / (view.seen + 1).double()[None, :, None, None]
        return view.state(STAMP).double() + recency
