"""One layer of a slot cache in the form that transformers expects."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from ..errors import KvreproError

if TYPE_CHECKING:
    from .slots import CompressedCache


class SlotLayer(CacheLayerMixin):
    """One layer's view of a `CompressedCache`, in the form that transformers expects."""

    is_sliding = False
    is_compileable = False

    def __init__(self, cache: CompressedCache, index: int):
        super().__init__()
        # not a reference: a cycle would keep the memory of a cache until Python's collector comes by
        self.cache, self.index, self.is_initialized = weakref.proxy(cache), index, True
        self.keys, self.values = cache.kv[0, index], cache.kv[1, index]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: storage exists from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append `[B, H, T, D]` to every live row; returns the used part of the storage."""
        # the cache lies on one device; the layers of a model spread over several GPUs send their new slots there
        device = self.cache.kv.device
        return self.cache.append(self.index, key_states.to(device), value_states.to(device))

    def get_seq_length(self) -> int:
        """Tokens processed (not slots): what transformers derives the next position from."""
        return self.cache.uniform_count(self.cache.seen, "tokens seen")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots that the next attention covers, for models that run without slot attention.

        Raises `KvreproError` where such a model would take slots for positions, which they no longer are.
        """
        if not self.cache.in_slot_attention and self.cache.lengths != self.cache.seen:
            raise KvreproError(
                "the cache has evicted, so the place of a key is no longer its position, and a mask would hide the "
                "wrong ones: call the model inside `kvrepro.compressing` or `kvrepro.slot_attention`"
            )
        return self.cache.uniform_count(self.cache.lengths, "slots in use") + query_length, 0

    def get_max_length(self) -> int:
        """Slots per row."""
        return self.cache.capacity

    def reset(self) -> None:
        """Empty the whole cache."""
        self.cache.reset()

    def crop(self, *args) -> None:
        """Take back tokens; see `_refuse`."""
        self._refuse("take back tokens (speculative decoding)")

    def reorder_cache(self, *args) -> None:
        """Exchange rows; see `_refuse`."""
        self._refuse("exchange its rows (beam search)")

    def batch_repeat_interleave(self, *args) -> None:
        """Copy rows; see `_refuse`."""
        self._refuse("copy its rows (contrastive search)")

    def batch_select_indices(self, *args) -> None:
        """Pick rows; see `_refuse`."""
        self._refuse("pick among its rows (contrastive search)")

    @staticmethod
    def _refuse(what: str) -> None:
        raise KvreproError(f"a compressed cache cannot {what}: use greedy decoding or sampling")
