"""What a method may look at: one decode step of all rows, or the slots of rows that are about to evict."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..cache import CompressedCache
from ..noise import mix, uniform

NEVER = 2**62  # position of the think-end tag of a row that has not closed its thought


@dataclass(frozen=True)
class StepView:
    """The step that just wrote one slot per live row.

    `hidden` `[B, hidden]`: last hidden state after the final norm.
    """

    cache: CompressedCache
    hidden: Tensor

    @cached_property
    def rows(self) -> Tensor:
        """`[B]` int64."""
        return torch.arange(self.cache.n_rows, device=self.cache.kv.device)

    @cached_property
    def slots(self) -> Tensor:
        """`[B]` int64: the slot that each row's newest token lies in."""
        return torch.tensor(self.cache.lengths, device=self.cache.kv.device) - 1


@dataclass(frozen=True)
class EvictionView:
    """Rows that evict now; all of them hold `length` slots (S below).

    Attributes:
        rows: `[R]` int64, their rows in the cache.
        n_prompt: `[R]` int64, prompt tokens.
        answer_from: `[R]` int64, position of the think-end tag, `NEVER` where the thought is open.
        noise_keys: `[R]` int64, keys of the rows' eviction noise.
    """

    cache: CompressedCache
    rows: Tensor
    length: int
    n_prompt: Tensor
    answer_from: Tensor
    noise_keys: Tensor

    @cached_property
    def positions(self) -> Tensor:
        """`[L or 1, R, H or 1, S]` int64: the position that each slot's token had in the sequence."""
        return self.cache.positions[:, self.rows, :, : self.length]

    @property
    def is_question(self) -> Tensor:
        """Shape of `positions`, bool: prompt tokens, up to and including the opening think tag."""
        return self.positions < self.n_prompt[None, :, None, None]

    @property
    def is_answer(self) -> Tensor:
        """Shape of `positions`, bool: the think-end tag and everything after it."""
        return self.positions >= self.answer_from[None, :, None, None]

    def state(self, name: str) -> Tensor:
        """`[layers, R, heads, S]` float32: a value per slot that the method declared in `prepare`."""
        return self.cache.slot_state[name][:, self.rows, :, : self.length]

    def keys(self, layer: int) -> Tensor:
        """`[R, H, S, D]`: the cached keys of one layer, rotated."""
        return self.cache.kv[0, layer, self.rows, :, : self.length]

    def values(self, layer: int) -> Tensor:
        """`[R, H, S, D]`: the cached values of one layer."""
        return self.cache.kv[1, layer, self.rows, :, : self.length]

    def uniform_noise(self) -> Tensor:
        """Fresh uniform noise of the shape of `positions`, keyed by (row, eviction, layer, head, position)."""
        layers, _, heads, _ = self.positions.shape
        seen = self.positions.amax(dim=(0, 2, 3))
        per_row = mix(self.noise_keys, seen)[None, :, None, None]
        place = torch.arange(layers * heads, device=per_row.device).view(layers, 1, heads, 1)
        return uniform(mix(per_row, place), self.positions)
