"""The frame that every eviction method shares: a method scores, the base pins and selects, the cache compacts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..cache import CompressedCache, KeepPlan
from ..errors import KvreproError
from ..schedule import PIN_OVERFLOW, Schedule
from .views import EvictionView, StepView


@dataclass(frozen=True)
class EvictionMethod:
    """A scoring rule under a budget.

    A subclass defines `score` and, if it carries state, `prepare` and `observe`. Everything else is switches.

    Attributes:
        schedule: when rows evict and how many slots stay; None for a cache that never evicts.
        pin_question: prompt tokens are never evicted.
        pin_answer: the think-end tag and later tokens are never evicted.
        sinks: first tokens that are never evicted.
        pin_overflow: what to do when pinned tokens do not fit beside the window: `error`, or `keep_first`
            (question before answer, earlier before later), the defined form of DynTS' arbitrary tie.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    granularity: ClassVar[str] = "shared"
    needs_predictor: ClassVar[bool] = False

    schedule: Schedule | None = None
    pin_question: bool = False
    pin_answer: bool = False
    sinks: int = 0
    pin_overflow: str = "error"

    def __post_init__(self) -> None:
        if self.sinks < 0:
            raise KvreproError(f"sinks={self.sinks}: must be 0 or above")
        if self.pin_overflow not in PIN_OVERFLOW:
            raise KvreproError(f"pin_overflow={self.pin_overflow!r}: known are {', '.join(PIN_OVERFLOW)}")

    def prepare(self, cache: CompressedCache) -> None:
        """Declare per-slot or per-row state on a new cache."""

    def observe(self, step: StepView) -> None:
        """See the step that just wrote one slot per row, before any eviction."""

    def score(self, view: EvictionView) -> Tensor:
        """Importance of every slot, `[L or 1, R, H or 1, S]`, higher is kept."""
        raise NotImplementedError

    def check_prompt(self, n_prompt: int) -> None:
        """Refuse a prompt that this budget cannot serve.

        Raises:
            KvreproError: the prompt exceeds the budget, or pinned tokens exceed what is kept beside the window.
        """
        if self.schedule is None:
            return
        s = self.schedule
        if n_prompt > s.budget:
            raise KvreproError(f"the prompt has {n_prompt} tokens, more than budget={s.budget}; raise the budget")
        pinned = max(n_prompt if self.pin_question else 0, min(self.sinks, n_prompt))
        room = s.kept_tokens - s.window
        if pinned > room and self.pin_overflow == "error":
            raise KvreproError(
                f"{pinned} pinned tokens do not fit: budget={s.budget} keeps {s.kept_tokens} slots at an eviction, "
                f"{s.window} of them the window, so {room} can be pinned. Raise budget or ratio, lower the window, "
                "or set pin_overflow=keep_first to drop the last pinned tokens"
            )

    def plan(self, view: EvictionView) -> tuple[KeepPlan, int]:
        """Choose the slots that stay: the window, then pinned slots, then the best scores.

        Ties go to the earlier slot, so a plan never depends on the device or on the batch.

        Returns:
            The plan, and how many pinned slots of these rows did not fit.
        """
        s = self.schedule
        candidates = view.length - s.window
        kept = min(s.kept_tokens - s.window, candidates)
        scores = self.score(view)[..., :candidates].float()
        pinned = self.pinned(view)[..., :candidates]
        scores = scores.masked_fill(pinned, torch.inf)
        best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :kept].sort(dim=-1).values
        window = torch.arange(candidates, view.length, device=best.device).expand(*best.shape[:-1], s.window)
        overflow = (pinned.sum(-1) - kept).clamp(min=0).amax(dim=(0, 2)).sum()
        return KeepPlan(view.rows, torch.cat([best, window], dim=-1)), int(overflow)

    def pinned(self, view: EvictionView) -> Tensor:
        """Bool of the shape of `view.positions`: slots that the switches protect."""
        pinned = view.positions < self.sinks
        if self.pin_question:
            pinned = pinned | view.is_question
        if self.pin_answer:
            pinned = pinned | view.is_answer
        return pinned
