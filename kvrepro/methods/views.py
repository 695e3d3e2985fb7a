"""What a method may look at: one decode step of all rows, or the slots of rows that are about to evict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from ..cache.slots import CompressedCache
from ..errors import KvreproError, UnknownNameError
from ..kernels.reference.sampling import gumbel, mix, uniform

NEVER = 2**62  # position of the think-end tag of a row that has not closed its thought

# keys that a method looks at together; above this many values the layers are taken in several blocks. A GPU has the
# memory, and pays for every block with launches
BLOCK_VALUES, GPU_BLOCK_VALUES = 2**24, 2**27


def layers_of(values: Tensor, layers: slice) -> Tensor:
    """Some layers of `values` `[L or 1, ...]`; where all layers share one, that one."""
    return values[layers] if values.shape[0] > 1 else values


@dataclass(frozen=True)
class StepView:
    """The step that just wrote one slot per live row.

    `hidden` `[B, hidden]`: last hidden state after the final norm. `tokens` `[B]`: the tokens that were fed.
    """

    cache: CompressedCache
    hidden: Tensor
    tokens: Tensor

    # what the decoder left on the device: sending the host's counts there would make every step wait for the last one

    @property
    def rows(self) -> Tensor:
        """`[B]` int64."""
        return self.cache.step_rows

    @property
    def slots(self) -> Tensor:
        """`[B]` int64: the slot that each row's newest token lies in."""
        return self.cache.step_slots


class RowNumbers(NamedTuple):
    """The numbers per row of an `EvictionView`, on the host."""

    rows: list[int]
    n_prompt: list[int]
    answer_from: list[int]
    noise_keys: list[int]
    evictions: list[int]


@dataclass(frozen=True)
class EvictionView:
    """Rows that evict now; all of them hold `length` slots (S below).

    `keys`, `values`, `queries` and `scaling` take a layer's number, which leaves the first axis out, or a slice of
    layers, and raise `KvreproError` for anything else. What they return may be the cache itself: read it, never write
    to it.

    Attributes:
        rows: `[R]` int64, their rows in the cache.
        n_prompt: `[R]` int64, prompt tokens.
        answer_from: `[R]` int64, position of the think-end tag, `NEVER` where the thought is open.
        noise_keys: `[R]` int64, keys of the rows' eviction noise.
        evictions: `[R]` int64, how often each row has evicted before.
        given: the same five on the host, where the view was made from them; read them as `host`.
    """

    cache: CompressedCache
    rows: Tensor
    length: int
    n_prompt: Tensor
    answer_from: Tensor
    noise_keys: Tensor
    evictions: Tensor
    given: RowNumbers | None = field(default=None, repr=False)

    @classmethod
    def of(cls, cache: CompressedCache, length: int, given: RowNumbers) -> EvictionView:
        """From what the host knows, sent in one copy that it does not wait for."""
        numbers = torch.tensor(given, dtype=torch.int64)
        if cache.kv.device.type == "cuda":
            # only from pinned memory is a copy queued; that memory is not reused before the copy has happened
            numbers = numbers.pin_memory()
        rows, *others = numbers.to(cache.kv.device, non_blocking=True)
        return cls(cache, rows, length, *others, given)

    @cached_property
    def host(self) -> RowNumbers:
        """The numbers per row on the host; asks the device, once, where the view was not made by `of`."""
        on_device = (self.rows, self.n_prompt, self.answer_from, self.noise_keys, self.evictions)
        return self.given or RowNumbers(*torch.stack(on_device).tolist())

    def subset(self, chosen: list[int]) -> EvictionView:
        """The same view of some of its rows, by their place in it; `KvreproError` for anything but whole numbers."""
        if not all(type(i) is int for i in chosen):
            raise KvreproError(f"subset of {chosen!r}: expected places in the view, such as [0, 2]; a mask is not one")
        given = RowNumbers(*([numbers[i] for i in chosen] for numbers in self.host))
        return EvictionView.of(self.cache, self.length, given)

    @cached_property
    def positions(self) -> Tensor:
        """`[L or 1, R, H or 1, S]` int64: the position that each slot's token had in the sequence."""
        return self.cache.positions[:, self.rows, :, : self.length]

    @cached_property
    def seen(self) -> Tensor:
        """`[R]` int64: tokens that each row has processed; its newest token has position `seen - 1`."""
        # the newest token always lies in the last slot
        return self.positions[0, :, 0, -1] + 1

    @property
    def is_question(self) -> Tensor:
        """Shape of `positions`, bool: prompt tokens, up to and including the opening think tag."""
        return self.positions < self.n_prompt[None, :, None, None]

    @property
    def is_answer(self) -> Tensor:
        """Shape of `positions`, bool: the think-end tag and everything after it."""
        return self.positions >= self.answer_from[None, :, None, None]

    def state(self, name: str, layers: slice = slice(None)) -> Tensor:
        """`[layers, R, heads, S]` float32: a value per slot that the method declared in `prepare`, else
        `UnknownNameError`.
        """
        return self._declared(name)[layers, self.rows, :, : self.length]

    def set_state(self, name: str, values: Tensor, layers: slice = slice(None)) -> None:
        """Write a value per slot, of the shape of `state` or of its first so many slots."""
        self._declared(name)[layers, self.rows, :, : values.shape[-1]] = values

    def _declared(self, name: str) -> Tensor:
        if name not in self.cache.slot_state:
            raise UnknownNameError(
                "slot state (cache.add_slot_state in prepare declares one)", name, self.cache.slot_state
            )
        return self.cache.slot_state[name]

    def layer_blocks(self, values_per_slot: int = 0) -> Iterator[slice]:
        """Layers to look at together: all of them in a small model, one by one in a large one.

        `values_per_slot`: values that a method computes per slot and layer, if they may be more than the keys.
        """
        shape = self.cache.shape
        per_slot = max(shape.kv_heads * shape.head_dim, values_per_slot)
        most = GPU_BLOCK_VALUES if self.cache.kv.device.type == "cuda" else BLOCK_VALUES
        step = max(1, most // max(1, len(self.rows) * self.length * per_slot))
        start, scaling = 0, self.cache.scaling
        while start < shape.layers:
            # layers of one block share their attention scale
            other = next((i for i in range(start, shape.layers) if scaling[i] != scaling[start]), shape.layers)
            stop = min(start + step, other)
            yield slice(start, stop)
            start = stop

    def scaling(self, layers: int | slice) -> float:
        """The factor that one layer, or a block of them, puts on the dot products; `KvreproError` where theirs
        differ.
        """
        factors = set(self.cache.scaling[self._layers(layers)[0]])
        if len(factors) != 1:
            raise KvreproError(
                f"layers={layers!r} differ in their scale ({factors}): take them from view.layer_blocks()"
            )
        return factors.pop()

    def keys(self, layers: int | slice) -> Tensor:
        """The cached keys, rotated: `[R, H, S, D]` of one layer, `[l, R, H, S, D]` of a slice."""
        return self._stored(0, layers)

    def values(self, layers: int | slice) -> Tensor:
        """The cached values: `[R, H, S, D]` of one layer, `[l, R, H, S, D]` of a slice."""
        return self._stored(1, layers)

    def _stored(self, part: int, layers: int | slice) -> Tensor:
        chosen, is_one = self._layers(layers)
        stored = self.cache.kv[part, chosen]
        if len(self.rows) == 1:
            # one row needs no copy
            row = self.host.rows[0]
            stored = stored[:, row : row + 1, :, : self.length]
        else:
            stored = stored[:, self.rows, :, : self.length]
        return stored[0] if is_one else stored

    def queries(self, layers: int | slice, width: int) -> tuple[Tensor, Tensor]:
        """The last `width` queries, oldest first, grouped by the KV head that they read; `KvreproError` where fewer are
        kept.

        Returns rotated queries, `[R, H, G, width, D]` of one layer, `[l, R, H, G, width, D]` of a slice; and their
        positions `[R, width]`, negative where there was none.
        """
        chosen, is_one = self._layers(layers)
        ring = self.cache.query_ring
        if ring is None or width > ring.width:
            kept = 0 if ring is None else ring.width
            raise KvreproError(
                f"{width} queries were asked for and {kept} are kept: call cache.keep_queries({width}) in prepare, and "
                "store the prompt's in admit, as QueryWindowMethod does"
            )
        queries, positions = ring.read(self.rows, self.seen, width, chosen)
        queries = queries.unflatten(2, (self.cache.shape.kv_heads, -1))
        return queries[0] if is_one else queries, positions

    def _layers(self, layers: int | slice) -> tuple[slice, bool]:
        """The layers as a slice, and whether one was asked for by its number."""
        n = self.cache.shape.layers
        if isinstance(layers, slice):
            return layers, False
        if isinstance(layers, int) and not isinstance(layers, bool) and -n <= layers < n:
            return slice(layers % n, layers % n + 1), True
        raise KvreproError(f"layers={layers!r}: expected a number from 0 to {n - 1} or a slice of the {n} layers")

    def _noise_keys(self, layers: int | None, heads: int | None) -> Tensor:
        """`[layers, R, heads, 1]` int64: keys that differ from eviction to eviction, layer to layer, head to head."""
        layers = self.positions.shape[0] if layers is None else layers
        heads = self.positions.shape[2] if heads is None else heads
        place = torch.arange(layers * heads, device=self.rows.device).view(layers, 1, heads, 1)
        return mix(mix(self.noise_keys, self.seen)[None, :, None, None], place)

    def uniform_noise(self, layers: int | None = None, heads: int | None = None) -> Tensor:
        """Fresh uniform noise `[layers, R, heads, S]`, keyed by (row, eviction, layer, head, position).

        `layers` and `heads` default to those of `positions`, that is to the granularity of the cache.
        """
        return uniform(self._noise_keys(layers, heads), self.positions)

    def gumbel_noise(self, layers: int | None = None, heads: int | None = None) -> Tensor:
        """Standard Gumbel noise; see `uniform_noise`."""
        return gumbel(self._noise_keys(layers, heads), self.positions)

    def normal_noise(self, *size: int) -> Tensor:
        """Fresh standard normal noise `[R, *size]`, keyed by (row, eviction, place)."""
        count = prod(size)
        counters = torch.arange(count, device=self.rows.device)
        keys = mix(self.noise_keys, self.seen)[:, None]
        # Box-Muller on two uniform streams
        radius = torch.sqrt(-2 * torch.log(uniform(keys, counters)))
        angle = 2 * torch.pi * uniform(keys, counters + count)
        return (radius * torch.cos(angle)).view(-1, *size)
