"""What DynTS keeps, taken apart: the ablations as published, and one at equal budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import KvreproError
from .dynts import DynTSMethod
from .random import RandomMethod
from .recency import WindowMethod
from .views import EvictionView


class DynTSRandomMethod(RandomMethod):
    """Any tokens but the window, drawn uniformly; the question is drawn like the rest.

    Source: DynTS, arXiv 2601.18383, `dynts-random`; docs/methods.md#dynts_random.
    Deviates: the draw has its own noise stream; the published one shares the generator with sampling.
    """

    name = "dynts_random"
    source = "DynTS repository"

    pin_question: bool = False
    pin_answer: bool = False


class DynTSBottomMethod(DynTSMethod):
    """The lowest predicted importance stays, so question and answer are the first to go.

    Source: DynTS, arXiv 2601.18383, `dynts-bottom`; docs/methods.md#dynts_bottom.
    """

    name = "dynts_bottom"
    source = "DynTS repository"

    pin_question: bool = False
    pin_answer: bool = False

    def score(self, view: EvictionView) -> Tensor:
        """Minus the importance; minus infinity for question and answer."""
        return (-super().score(view)).masked_fill(view.is_question | view.is_answer, -torch.inf)


class DynTSNoQuestionMethod(DynTSMethod):
    """DynTS with a question of importance 0, so that it is evicted before any thinking token.

    Source: DynTS, arXiv 2601.18383, `dynts-noque`; docs/methods.md#dynts_noque.
    """

    name = "dynts_noque"
    source = "DynTS repository"

    pin_question: bool = False

    def score(self, view: EvictionView) -> Tensor:
        """The stored predictions, all above 0; 0 for the question."""
        return super().score(view).masked_fill(view.is_question, 0.0)


class DynTSNoThinkingMethod(WindowMethod):
    """The question and the last `window` tokens. As published it keeps more with every longer question.

    Source: DynTS, arXiv 2601.18383, `inference/window.py` (sink_type=question); docs/methods.md#dynts_nothink.
    Deviates: sinks are a row's own prompt; the published ones are the batch's padded prompt slots.
    """

    name = "dynts_nothink"
    source = "DynTS repository"

    pin_question: bool = True

    @property
    def _is_published(self) -> bool:
        return self.schedule.kept == self.schedule.window

    def kept_slots(self, view: EvictionView) -> Sequence[int] | Tensor:
        """Prompt and window as published; the budget in the fair protocol."""
        if not self._is_published:
            return super().kept_slots(view)
        return [n + self.schedule.window for n in view.host.n_prompt]

    def check_prompt(self, n_prompt: int) -> None:
        """Prompt and window must leave something to evict."""
        if not self._is_published:
            return super().check_prompt(n_prompt)
        s = self.schedule
        if n_prompt + s.window > s.budget:
            raise KvreproError(
                f"dynts_nothink keeps the prompt and the window, {n_prompt} + {s.window} tokens, which is more than "
                f"budget={s.budget}; raise the budget or lower the window"
            )


class DynTSNoLocalMethod(DynTSMethod):
    """DynTS with a window of one token.

    Source: DynTS, arXiv 2601.18383, `recipes/ablation/wolocal_*` (there with a budget of 3000 on all sets);
    docs/methods.md#dynts_nolocal.
    """

    name = "dynts_nolocal"
    source = "DynTS repository"


class BottomMethod(DynTSMethod):
    """The question, the answer, the window and the thinking tokens of the lowest predicted importance.

    Source: DynTS' ablation `dynts-bottom`.
    Deviates: question and answer stay, so that it differs from `dynts` by the order of the score alone.
    """

    name = "bottom"
    source = "control for dynts"

    def score(self, view: EvictionView) -> Tensor:
        """Minus the importance."""
        return -super().score(view)
