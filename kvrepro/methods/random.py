"""Random eviction that protects the question: the control that a score has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .base import EvictionMethod
from .views import EvictionView


@dataclass(frozen=True)
class RandomMethod(EvictionMethod):
    """Keep the question, the window and uniformly drawn thinking tokens, drawn anew at each eviction.

    Source: the idea of Random Attention, arXiv 2609.03430.
    Deviates: one draw for all layers and heads and DynTS' window, so that it differs from `dynts` by the score alone.
    """

    name: ClassVar[str] = "random"
    source: ClassVar[str] = "control for dynts (after arXiv 2609.03430)"

    pin_question: bool = True
    pin_answer: bool = True

    def score(self, view: EvictionView) -> Tensor:
        """Uniform noise from the eviction stream; sampling noise is another stream."""
        return view.uniform_noise()
