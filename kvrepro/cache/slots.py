"""The compressed KV cache: a fixed number of slots per row, compacted in place.

Two counters live here and must never be mixed up. `lengths` says how many slots a row holds (it shrinks at
an eviction); `seen` says how many tokens a row has processed (it never shrinks) and gives the position of the
next token. Keys are stored rotated at their original position, so moving a slot changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Cache

from ..errors import KvreproError
from ..kernels.compact_slots import compact_slots
from .counters import DeviceCounters
from .recent_queries import QueryRing
from .rotary import Rotary
from .shape import CacheShape
from .slot_layer import SlotLayer
from .static_step import StaticStep

GRANULARITIES = ("shared", "layer", "head")


@dataclass(frozen=True)
class KeepPlan:
    """Which slots of which rows stay.

    `rows` `[R]` int64; `slots` `[L or 1, R, H or 1, K]` int64, ascending along K: 1 where layers or heads share.
    `host_rows`: the rows on the host; without them `compact` asks the device.
    """

    rows: Tensor
    slots: Tensor
    host_rows: list[int] | None = None


class CompressedCache(Cache):
    """Preallocated K and V of `capacity` slots for each of `max_rows` rows and layer, for any decoder with full
    attention.

    `capacity` is the budget and the slack that the method declares. `granularity`: `shared` (one kept set for all
    layers and heads), `layer` or `head` (per layer and KV head).

    Rows are dense: the live rows are always `0 .. n_rows-1`; `release` moves the last row into the gap.
    """

    def __init__(
        self,
        config,
        max_rows: int,
        capacity: int,
        granularity: str = "shared",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if max_rows < 1 or capacity < 1:
            raise KvreproError(f"max_rows={max_rows}, capacity={capacity}: both must be at least 1")
        if granularity not in GRANULARITIES:
            raise KvreproError(f"granularity={granularity!r}: known are {', '.join(GRANULARITIES)}")
        self.shape = CacheShape.of(config)
        self.max_rows, self.capacity, self.granularity = max_rows, capacity, granularity
        s = self.shape
        # zeros, not empty: what lies in an unused slot is multiplied by an attention weight of 0
        self.kv = torch.zeros(2, s.layers, max_rows, s.kv_heads, capacity, s.head_dim, dtype=dtype, device=device)
        layers = 1 if granularity == "shared" else s.layers
        heads = s.kv_heads if granularity == "head" else 1
        self.positions = torch.zeros(layers, max_rows, heads, capacity, dtype=torch.int64, device=device)
        self.slot_state: dict[str, Tensor] = {}
        self._fills: dict[str, float] = {}
        self.row_state: dict[str, Tensor] = {}
        self.lengths: list[int] = []
        self.seen: list[int] = []
        self.counters = DeviceCounters(max_rows, self.kv.device)
        self.peak_tokens = 0
        self.attention_bias: Tensor | None = None
        # set while a model's own forward runs in static shapes
        self.static_step: StaticStep | None = None
        # set by `attention.slot_attention`: positions and empty slots are then given, nothing is derived from counts
        self.in_slot_attention = False
        # what a method wants to see of a step; set by `keep_queries` and by the method itself. `on_mass` is given the
        # cache, so that it need not hold it
        self.query_ring: QueryRing | None = None
        self.on_mass: Callable[[CompressedCache, int, Tensor], None] | None = None
        # keys rotated by their slot instead of their position (StreamingLLM's re-indexed positions)
        self.reindexed = False
        self.rotary: Rotary | None = None
        # the factor on dot products of queries and keys, per layer; the engine puts the model's own here
        self.scaling: tuple[float, ...] = (s.head_dim**-0.5,) * s.layers
        super().__init__(layers=[SlotLayer(self, i) for i in range(s.layers)])

    @property
    def n_rows(self) -> int:
        """Live rows."""
        return len(self.lengths)

    @property
    def kv_bytes(self) -> int:
        """Bytes of K and V storage held, all rows and layers."""
        return self.kv.numel() * self.kv.element_size()

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of K and V that one token of one row takes over all layers."""
        return self.kv_bytes // (self.max_rows * self.capacity)

    def add_slot_state(self, name: str, layers: int = 1, heads: int = 1, fill: float = 0.0) -> Tensor:
        """A float32 value per slot, `[layers, B, heads, capacity]`, that follows its slot through compaction.

        Layers and heads that do not share their slots get values of their own, even where 1 is asked for: write to
        all of them (`state[:, rows, :, slots]`). A slot that nothing was written to holds `fill`.
        """
        # a value that layers share cannot follow slots that they do not share
        layers, heads = max(layers, self.positions.shape[0]), max(heads, self.positions.shape[2])
        size = (layers, self.max_rows, heads, self.capacity)
        self._fills[name] = fill
        self.slot_state[name] = torch.full(size, fill, dtype=torch.float32, device=self.kv.device)
        return self.slot_state[name]

    def add_row_state(self, name: str, *size: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """A value per row, `[B, *size]`, that follows its row; slots do not touch it."""
        self.row_state[name] = torch.zeros(self.max_rows, *size, dtype=dtype, device=self.kv.device)
        return self.row_state[name]

    def keep_queries(self, width: int) -> None:
        """Keep the last `width` queries of every row from now on."""
        self.query_ring = QueryRing(self, width)

    def observe(self, layer: int, query: Tensor, mass: Tensor | None) -> None:
        """Called by the attention of a step: `query` `[B, Hq, D]`, `mass` `[B, H, G, S]` or None."""
        if self.query_ring is not None:
            self.query_ring.write(layer, query, self.step_rows, self.step_positions)
        if mass is not None:
            self.on_mass(self, layer, mass)

    def admit(self, keys: Tensor, values: Tensor) -> int:
        """Add a row from prefilled keys and values `[L, H, P, D]`; returns its index.

        Raises `KvreproError` where no row is free, or the prompt does not fit.
        """
        n_tokens, row = keys.shape[2], self.n_rows
        if row == self.max_rows:
            raise KvreproError(f"all {self.max_rows} rows are in use; release one before admitting another")
        if n_tokens > self.capacity:
            raise KvreproError(
                f"a prompt of {n_tokens} tokens does not fit into {self.capacity} slots; raise the budget"
            )
        for stored, given in zip(self.kv, (keys, values), strict=True):
            stored[:, row, :, :n_tokens] = given
            stored[:, row, :, n_tokens:] = 0
        self.positions[:, row, :, :n_tokens] = torch.arange(n_tokens, device=self.kv.device)
        for name, state in self.slot_state.items():
            state[:, row] = self._fills[name]
        for state in self.row_state.values():
            state[row] = 0
        self.lengths.append(n_tokens)
        self.seen.append(n_tokens)
        self.peak_tokens = max(self.peak_tokens, n_tokens)
        return row

    def release(self, row: int) -> int:
        """Free a row; the last row takes its place. Returns the index the last row had."""
        last = self.n_rows - 1
        if not 0 <= row <= last:
            raise KvreproError(f"row {row} is not live; live rows are 0 to {last}")
        if row != last:
            n = self.lengths[last]
            self.kv[:, :, row, :, :n] = self.kv[:, :, last, :, :n]
            self.positions[:, row, :, :n] = self.positions[:, last, :, :n]
            for name, state in self.slot_state.items():
                state[:, row, :, :n] = state[:, last, :, :n]
                state[:, row, :, n:] = self._fills[name]
            for state in self.row_state.values():
                state[row] = state[last]
        self.lengths[row], self.seen[row] = self.lengths[last], self.seen[last]
        self.lengths.pop()
        self.seen.pop()
        return last

    def reset(self) -> None:
        """Forget all rows; storage and declared state stay."""
        self.lengths.clear()
        self.seen.clear()

    def next_positions(self) -> Tensor:
        """`[B, 1]` int64: the position of the token that each live row takes next. Pass it as `position_ids`."""
        self.counters.follow(self.lengths, self.seen)
        counts = self.counters.lengths if self.reindexed else self.counters.seen
        # what the step counts on must not change a position that somebody still holds
        return counts[: self.n_rows, None].clone()

    def uniform_count(self, counts: list[int], what: str) -> int:
        """The one count that all rows share, for callers that know nothing of rows of different length.

        Raises `KvreproError` where rows differ: a model that derives positions or masks from one number would be wrong.
        """
        if len(set(counts)) > 1 and not self.in_slot_attention:
            raise KvreproError(
                f"rows differ in {what} ({min(counts)} to {max(counts)}): run the model inside "
                "`kvrepro.cache.attention.slot_attention(model, cache)` with position_ids=cache.next_positions() and "
                "slots=cache"
            )
        return max(counts, default=0)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `[B, H, T, D]` behind each row's last slot; returns K and V of the slots in use, `[B, H, S, D]`.

        The first layer of a forward pass opens the step, the last one advances the lengths.
        """
        if self.static_step is not None:
            return self.static_step.append(layer, keys, values)
        n_rows, _, n_new, _ = keys.shape
        if layer == 0:
            if not self.lengths:
                # used as a plain transformers cache: the first call brings the prompts
                self.lengths, self.seen = [0] * n_rows, [0] * n_rows
            self.open_step(n_rows, n_new)
            self.attention_bias = self._bias(n_new)
        # one indexed write for K and V: [B, T, 2, H, D]
        new = torch.stack((keys, values), dim=1).permute(0, 3, 1, 2, 4)
        self.kv[:, layer][:, self._rows, :, self._targets] = new
        if layer == self.shape.layers - 1:
            self.close_step(n_new)
        return self.kv[0, layer, :n_rows, :, : self.span], self.kv[1, layer, :n_rows, :, : self.span]

    def longest_after(self, n_rows: int, n_new: int = 1) -> int:
        """Slots that the longest row uses after a step of `n_new` tokens for each of `n_rows` rows.

        Raises `KvreproError` where the cache holds another number of rows, or a row is full.
        """
        if n_rows != self.n_rows:
            raise KvreproError(f"the model was given {n_rows} rows, the cache holds {self.n_rows}")
        longest = max(self.lengths) + n_new
        if longest > self.capacity:
            raise KvreproError(
                f"a row would need {longest} slots, the cache has {self.capacity}: evict before the next token"
            )
        return longest

    def open_step(self, n_rows: int, n_new: int = 1) -> None:
        """Begin a step of `n_new` tokens per row, see `longest_after`: where they go, and their positions.

        For decoders that write K and V themselves; `append` opens and closes its steps on its own.
        """
        self.span = self.longest_after(n_rows, n_new)
        counters = self.counters
        counters.follow(self.lengths, self.seen)
        steps = torch.arange(n_new, device=self.kv.device)
        self._rows = counters.rows[:n_rows, None]
        self._targets = counters.lengths[:n_rows, None] + steps
        positions = counters.seen[:n_rows, None] + steps
        # of the newest token of each row, `[B]`
        self.step_rows, self.step_slots, self.step_positions = self._rows[:, 0], self._targets[:, -1], positions[:, -1]
        for layer_positions in self.positions:
            layer_positions[self._rows, :, self._targets] = positions[:, :, None]
        self.peak_tokens = max(self.peak_tokens, self.span)

    def close_step(self, n_new: int = 1) -> None:
        """The step is done: every row holds and has seen `n_new` more tokens."""
        self.lengths = [n + n_new for n in self.lengths]
        self.seen = [n + n_new for n in self.seen]
        self.counters.add(self.n_rows, n_new, self.lengths, self.seen)

    def _bias(self, n_new: int) -> Tensor | None:
        """0 where a slot is in use and -inf where not, `[B, 1, 1, S]`; None when all rows are full up to the span."""
        if min(self.lengths) + n_new == self.span:
            return None
        used = self._targets[:, -1:] + 1
        empty = torch.arange(self.span, device=used.device) >= used
        bias = torch.zeros(empty.shape, dtype=self.kv.dtype, device=used.device).masked_fill_(empty, float("-inf"))
        return bias[:, None, None]

    def compact(self, plan: KeepPlan) -> None:
        """Keep the slots of the plan and forget the rest of those rows, in place and in order."""
        compact_slots(self.kv, plan.rows, plan.slots)
        kept = plan.slots.shape[-1]
        self._move(self.positions, plan)
        for name, state in self.slot_state.items():
            self._move(state, plan)
            state[:, plan.rows, :, kept:] = self._fills[name]
        for row in plan.rows.tolist() if plan.host_rows is None else plan.host_rows:
            self.lengths[row] = kept

    def _move(self, tensor: Tensor, plan: KeepPlan) -> None:
        """Values of the kept slots to the front: `[L or 1, B, H or 1, capacity]`."""
        slots = plan.slots
        if tensor.shape[2] > slots.shape[2] > 1:
            # a value per query head follows its KV head
            slots = slots[:, :, :, None].expand(-1, -1, -1, tensor.shape[2] // slots.shape[2], -1).flatten(2, 3)
        if tensor.is_cuda:
            # one launch and no copy of the rows; torch is faster than the kernel's twin on a CPU
            compact_slots(tensor[None, ..., None], plan.rows, slots)
            return
        index = slots.expand(tensor.shape[0], -1, tensor.shape[2], -1)
        tensor[:, plan.rows, :, : index.shape[-1]] = tensor[:, plan.rows].gather(-1, index)
