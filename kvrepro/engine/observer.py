"""What a run of the engine shows to whoever wants to watch it."""

from __future__ import annotations

from torch import Tensor

from ..cache.slots import CompressedCache, KeepPlan
from .batch import Row


class Observer:
    """Watches a run; every look costs host time, so timed runs have none. A subclass overrides what it wants to see."""

    def logits(self, rows: list[Row], logits: Tensor) -> None:
        """Live rows and their next-token logits `[B, V]`, before a token is taken; a row that enters comes alone.

        Where this is overridden every token is read at once, so `rows[i].completion.token_ids` is complete.
        """

    def evicted(self, cache: CompressedCache, rows: list[Row], plan: KeepPlan) -> None:
        """The live rows, after a plan for some of them was carried out."""

    @property
    def sees_logits(self) -> bool:
        """Whether a subclass looks at every step."""
        return type(self).logits is not Observer.logits


class KeptPositions(Observer):
    """Writes what every eviction kept into the rows' completions."""

    def evicted(self, cache: CompressedCache, rows: list[Row], plan: KeepPlan) -> None:
        """Positions of the first layer and head."""
        kept = cache.positions[0, plan.rows, 0, : plan.slots.shape[-1]]
        evicted = plan.rows.tolist() if plan.host_rows is None else plan.host_rows
        for row, positions in zip(evicted, kept.tolist(), strict=True):
            rows[row].completion.kept_positions.append(positions)
