"""Random eviction: the control that a score has to beat, and Random Attention, the published one."""

from __future__ import annotations

from torch import Tensor

from ..errors import KvreproError
from .base import EvictionMethod
from .views import EvictionView


class RandomMethod(EvictionMethod):
    """Keep the question, the window and uniformly drawn thinking tokens, drawn anew at each eviction.

    Source: the idea of Random Attention, arXiv 2609.03430.
    Deviates: one draw for all layers and heads and DynTS' pins, so that it differs from `dynts` by the score alone.
    """

    name = "random"
    source = "control for dynts (after arXiv 2609.03430)"

    pin_question: bool = True
    pin_answer: bool = True

    def score(self, view: EvictionView) -> Tensor:
        """Uniform noise from the eviction stream; sampling noise is another stream."""
        return view.uniform_noise()


class RandomAttentionMethod(EvictionMethod):
    """Keep the prompt, a buffer of recent tokens and uniformly drawn others, per layer and KV head.

    Source: Random Attention, arXiv 2609.03430; docs/methods.md#random_attention. As published the budget K excludes
    the buffer of r tokens and K + r remain after an eviction.
    """

    name = "random_attention"
    source = "arXiv 2609.03430"

    granularity: str = "head"
    pin_question: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.pin_question:
            raise KvreproError("pin_question=False: random_attention is defined by keeping the prompt; use random")

    def check_prompt(self, n_prompt: int) -> None:
        """The prompt must leave something to draw; the paper's rule is undefined where it does not."""
        super().check_prompt(n_prompt)
        s = self.schedule
        if s is not None and self.pin_overflow == "error" and n_prompt >= s.kept_tokens - s.window:
            raise KvreproError(
                f"a prompt of {n_prompt} tokens and a buffer of {s.window} fill all {s.kept_tokens} slots that remain "
                "after an eviction, so random_attention has nothing to draw; raise the budget or lower the window"
            )

    def score(self, view: EvictionView) -> Tensor:
        """Uniform noise, a draw of its own per layer and head."""
        return view.uniform_noise()
