"""Methods that keep what is recent, with and without the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import EvictionMethod
from .views import EvictionView


@dataclass(frozen=True)
class WindowMethod(EvictionMethod):
    """Keep the most recent tokens; the question goes like everything else.

    Source: the `window` baseline of DynTS (`inference/window.py`, sink_type=none).
    Deviates: keeps as many slots as the other methods do at this budget (`Schedule.kept_tokens`); the published
    R1-Llama runs keep 2000 where the other methods keep 2900.
    """

    name: ClassVar[str] = "window"
    source: ClassVar[str] = "DynTS baseline, at equal budget"

    def score(self, view: EvictionView) -> Tensor:
        """Later positions score higher."""
        return view.positions.float()


@dataclass(frozen=True)
class QuestionWindowMethod(WindowMethod):
    """Keep the question and the most recent tokens.

    Source: DynTS ablation "no thinking" (`sink_type=question`).
    Deviates: the window shrinks by the question, so that the budget is that of the other methods.
    """

    name: ClassVar[str] = "question_window"
    source: ClassVar[str] = "DynTS ablation, at equal budget"

    pin_question: bool = True
