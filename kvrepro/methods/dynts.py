"""DynTS: keep the thinking tokens that a small head predicts the answer will attend to."""

from __future__ import annotations

from dataclasses import field

from torch import Tensor, nn

from ..cache.slots import CompressedCache
from .base import EvictionMethod
from .views import EvictionView, StepView


class DynTSMethod(EvictionMethod):
    """Question and answer pinned, thinking tokens ranked by predicted importance, a local window.

    Importance is predicted once, from the hidden state of the step that fed the token, and never updated.

    Source: DynTS, arXiv 2601.18383, `inference/dynts.py`; docs/methods.md#dynts.
    """

    name = "dynts"
    source = "arXiv 2601.18383"
    state = "importance [B, S]"
    needs = ("predictor",)
    observes_on_device = True

    pin_question: bool = True
    pin_answer: bool = True
    predictor: nn.Module | None = field(default=None, repr=False, compare=False)

    def prepare(self, cache: CompressedCache) -> None:
        """One importance per slot, shared by all layers and heads."""
        cache.add_slot_state("importance")

    def observe(self, step: StepView) -> None:
        """Predict the importance of the token that was just fed."""
        importance = self.predictor(step.hidden).float()
        step.cache.slot_state["importance"][:, step.rows, :, step.slots] = importance[:, None, None]

    def score(self, view: EvictionView) -> Tensor:
        """The stored predictions."""
        return view.state("importance")
