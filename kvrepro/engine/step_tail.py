"""What follows the model in a step, on the device: the method's look at it, sampling, the rows' counters."""

from __future__ import annotations

import weakref

from torch import Tensor

from ..cache.slots import CompressedCache
from ..methods.base import EvictionMethod
from ..methods.views import StepView
from .batch import ActiveBatch
from .requests import SamplingConfig
from .sampling import next_tokens


class StepTail:
    """Device work only, so that a decoder can hold it in one graph with the model.

    It works on the first `n_rows` rows whether they are live or not. What it leaves in a row that is not live is
    overwritten when the row is admitted.
    """

    def __init__(
        self, method: EvictionMethod, sampling: SamplingConfig, cache: CompressedCache, batch: ActiveBatch
    ) -> None:
        # not a reference to the cache: a decoder keeps its graphs by their tail until the cache has gone
        self.method, self.sampling, self.cache, self.batch = method, sampling, weakref.proxy(cache), batch

    @property
    def form(self) -> int | None:
        """A graph serves the form that it was recorded in."""
        return self.batch.form

    def tokens(self, n_rows: int) -> Tensor:
        """`[B]` int64: the static buffer of the tokens that the rows take next."""
        return self.batch.state[0, :n_rows]

    def written(self) -> list[Tensor]:
        """What `draw` changes beside what the method keeps per slot."""
        return [self.batch.state]

    def draw(self, n_rows: int, logits: Tensor, hidden: Tensor) -> Tensor:
        """Show the step to the method and draw each row's next token, `[B]` int64, from `[B, V]`."""
        newest, keys, steps = self.batch.state[:, :n_rows]
        self.method.observe(StepView(self.cache, hidden, newest))
        drawn = next_tokens(logits, self.sampling, self.batch.forced(n_rows), keys, steps)
        self.batch.advance(drawn)
        return drawn
