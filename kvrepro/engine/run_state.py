"""What one run of the engine holds between its steps, and which rows evict together."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from torch import Tensor

from ..cache.prefill import Prefill
from ..cache.slots import CompressedCache
from ..methods.base import EvictionMethod
from .async_tokens import AsyncTokens
from .batch import ActiveBatch, Row
from .stage_timer import StageTimer

# slots of all rows that evict together; bounds what a method needs that compares or attends while it scores
GROUP_SLOTS = 2**16


@dataclass
class RunState:
    """One run of the engine.

    Attributes:
        sync_step: the step at the end of which some row may evict or reach its last token; before such a step every
            token must have been read.
        unread_steps: the rows of the steps that have not been read.
        part_timer: times the parts of the model's own step, which costs time itself; None in runs.
    """

    cache: CompressedCache
    batch: ActiveBatch
    tokens: AsyncTokens
    timer: StageTimer
    part_timer: StageTimer | None = None
    sync_step: int = 0
    unread_steps: deque[list[Row]] = field(default_factory=deque)
    prefilled: dict[tuple[int, ...], Prefill] = field(default_factory=dict)

    def groups_due(self, method: EvictionMethod, logits: Tensor) -> Iterator[tuple[int, list[int]]]:
        """Rows that have filled their budget, in groups of equal length, as many as memory bears: `(length, rows)`.

        Args:
            logits: `[B, V]` of the step. A row without finite ones ends with this step; its keys may hold NaN, which no
                method can rank, so it is left out.
        """
        if method.schedule is None:
            return
        lengths = self.cache.lengths
        due = [
            i
            for i, (row, length) in enumerate(zip(self.batch.rows, lengths, strict=True))
            if length >= method.peak_slots(row.n_prompt, row.completion.evictions)
        ]
        if due:
            due = [i for i, ok in zip(due, logits[due].amax(-1).isfinite().tolist(), strict=True) if ok]
        for length, group in groupby(sorted(due, key=lengths.__getitem__), key=lengths.__getitem__):
            indices, most = list(group), max(1, GROUP_SLOTS // length)
            for start in range(0, len(indices), most):
                yield length, indices[start : start + most]
