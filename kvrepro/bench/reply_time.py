"""From the time of a step at some lengths to the time of a whole reply, for a cache that grows or that is evicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import KvreproError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Reply:
    """How many slots a row holds, step by step.

    Attributes:
        prompt: tokens of the prompt.
        new_tokens: tokens generated, one per step; the first comes from the prompt and is counted as a step here.
        budget: slots that remain after an eviction; None for the full cache.
        evict_every: tokens between evictions: a row that holds `budget + evict_every` slots is evicted.
    """

    prompt: int
    new_tokens: int
    budget: int | None = None
    evict_every: int = 128

    def __post_init__(self) -> None:
        if self.prompt < 1 or self.new_tokens < 1 or self.evict_every < 1:
            raise KvreproError(
                f"prompt={self.prompt}, new_tokens={self.new_tokens}, evict_every={self.evict_every}: all from 1"
            )
        if self.budget is not None and self.prompt > self.budget:
            raise KvreproError(f"prompt={self.prompt} tokens do not fit into budget={self.budget}")

    @property
    def peak_slots(self) -> int:
        """The most slots a row ever holds."""
        longest = self.prompt + self.new_tokens
        return longest if self.budget is None else min(longest, self.budget + self.evict_every)

    def lengths(self) -> np.ndarray:
        """Slots in use before each step, `[new_tokens]` int64."""
        import numpy as np

        grown = self.prompt + np.arange(self.new_tokens)
        if self.budget is None:
            return grown
        beyond = np.maximum(grown - self.budget, 0)
        return np.where(grown < self.budget, grown, self.budget + beyond % self.evict_every)

    @property
    def evictions(self) -> int:
        """How often a row is evicted."""
        if self.budget is None:
            return 0
        return max(0, self.prompt + self.new_tokens - self.budget) // self.evict_every


def reply_ms(reply: Reply, lengths: Sequence[float], ms: Sequence[float], eviction_ms: float = 0.0) -> float:
    """Milliseconds of decoding a whole batch of such replies: every step at its length, and the evictions.

    Args:
        lengths: slots at which a step was measured, ascending; straight lines between them, level outside.
        ms: milliseconds per step of the batch there.
        eviction_ms: of evicting the whole batch once.
    """
    import numpy as np

    return float(np.interp(reply.lengths(), lengths, ms).sum() + reply.evictions * eviction_ms)
