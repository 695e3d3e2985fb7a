"""DynTS: keep the thinking tokens that a small head predicts the answer will attend to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from ..cache.slots import CompressedCache
from ..errors import KvreproError
from .base import EvictionMethod
from .views import EvictionView, StepView


@dataclass(frozen=True)
class DynTSMethod(EvictionMethod):
    """Question and answer pinned, thinking tokens ranked by predicted importance, a local window.

    Importance is predicted once, from the hidden state of the step that fed the token, and never updated.

    Source: DynTS, arXiv 2601.18383, `inference/dynts.py`; docs/methods.md#dynts.
    Deviates: rows evict each on their own (the published loop evicts the whole batch when its longest row is
    full), and ties between pinned slots go to the earlier slot instead of being arbitrary.
    """

    name: ClassVar[str] = "dynts"
    source: ClassVar[str] = "arXiv 2601.18383"
    state: ClassVar[str] = "importance [B, S]"
    needs: ClassVar[tuple[str, ...]] = ("predictor",)

    pin_question: bool = True
    pin_answer: bool = True
    predictor: nn.Module | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.predictor is None:
            raise KvreproError(
                f"{self.name} needs an importance predictor and this model has none: train one with "
                "`kvrepro train MODEL` or give its folder with predictor=..."
            )

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
