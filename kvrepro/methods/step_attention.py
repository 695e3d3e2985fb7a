"""What methods share that look at the attention of every step."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..cache.slots import CompressedCache
from .base import EvictionMethod


class StepAttentionMethod(EvictionMethod):
    """A method that is shown what every slot received at every step, and carries values per slot, layer and KV head."""

    attention = "step"
    # names of the carried values, float32, 0 for a new slot
    carried: ClassVar[tuple[str, ...]] = ()

    granularity: str = "head"

    def prepare(self, cache: CompressedCache) -> None:
        """The carried values of every slot, layer and KV head."""
        for name in self.carried:
            cache.add_slot_state(name, cache.shape.layers, cache.shape.kv_heads)
        cache.on_mass = self.attended

    def attended(self, cache: CompressedCache, layer: int, attention: Tensor) -> None:
        """See one layer of a step, `[B, H, G, S]`: the newest slot included, 0 beyond a row's length."""
        raise NotImplementedError
