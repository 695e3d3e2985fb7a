"""One step over the whole storage of a cache, in shapes that never change: what a CUDA graph can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..kernels.decode_attention import decode_attention, fixed_chunk, plan_chunks

if TYPE_CHECKING:
    from .slots import CompressedCache


class StaticStep:
    """A step of the first `n_rows` rows, live or not; device work only, and nothing depends on how long a row is, up
    to `span` slots.

    What a row holds is read off the cache's counters on the device. A row that is not live writes nothing, attends to
    nothing and does not count on.

    Args:
        impl: which kernels, see `kvrepro.kernels`.

    Attributes:
        slots: `[B]` int64: where each row's token goes, -1 for a row that is not live.
        rotated_by: `[B, 1]` int64: the position that its query and key are rotated by.
    """

    def __init__(self, cache: CompressedCache, n_rows: int, span: int, impl: str = "auto"):
        counters = cache.counters
        self.cache, self.impl, self.n_rows, self.span = cache, impl, n_rows, span
        self._lengths, self._seen = counters.lengths[:n_rows], counters.seen[:n_rows]
        # copies: the counters go on before the step is over
        self.slots, self._after = self._lengths.clone(), self._lengths + 1
        self._live, self._at = self._lengths >= 0, self._lengths.clamp(min=0)
        self.rotated_by = (self._at if cache.reindexed else self._seen)[:, None]
        # units of a fixed size: what a row holds, and nothing else, decides in which order its attention is summed
        chunk = fixed_chunk(cache.capacity)
        self._plan = plan_chunks(self.storage(0)[0], self._after, chunk=chunk, impl=impl)
        # what a method may look at while the step runs; a captured graph keeps reading these tensors
        cache.step_rows, cache.step_slots, cache.step_positions = counters.rows[:n_rows], self._at, self._seen

    def storage(self, layer: int) -> tuple[Tensor, Tensor]:
        """K and V of the first slots, `[B, H, S, D]`."""
        keys, values = self.cache.kv[:, layer, : self.n_rows, :, : self.span]
        return keys, values

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `[B, H, 1, D]` behind each row's last slot; returns as `storage`."""
        stored, rows = self.cache.kv[:, layer], self.cache.step_rows
        # a row that is not live puts back what is there: picking rows by a condition would read the device
        old, new = stored[:, rows, :, self._at], torch.stack((keys, values), dim=1)[:, :, :, 0]
        stored[:, rows, :, self._at] = torch.where(self._live[:, None, None, None], new, old)
        return self.storage(layer)

    def attend(self, layer: int, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of rotated queries `[B, Hq, D]` over the slots in use, shown to the method; `[B, Hq, D]`."""
        wanted = None if self.cache.on_mass is None else "all"
        out, mass = decode_attention(
            query, keys, values, self._after, scaling, mass=wanted, plan=self._plan, impl=self.impl
        )
        self.cache.observe(layer, query, mass)
        return out

    def close(self) -> None:
        """Note the new tokens' positions and count on."""
        positions, rows, live = self.cache.positions, self.cache.step_rows, self._live
        new = torch.where(live[:, None, None], self._seen[:, None, None], positions[:, rows, :, self._at])
        positions[:, rows, :, self._at] = new
        self._lengths += live
        self._seen += live
