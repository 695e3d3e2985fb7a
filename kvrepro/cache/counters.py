"""A cache's two counts per row on its device, so that a step uploads nothing."""

from __future__ import annotations

import torch
from torch import Tensor


class DeviceCounters:
    """Slots held and tokens seen, `[max_rows]` int64 each; a row that is not live has -1 and 0.

    The host's lists rule. What a step counts on is counted here too, so `follow` uploads only after the host has
    changed its lists otherwise: admission, release, eviction.
    """

    def __init__(self, max_rows: int, device: torch.device):
        self._counts = torch.zeros(2, max_rows, dtype=torch.int64, device=device)
        self._counts[0] = -1
        self.rows = torch.arange(max_rows, device=device)
        self._known: tuple[list[int], list[int]] = ([], [])

    @property
    def lengths(self) -> Tensor:
        """Slots that each row holds."""
        return self._counts[0]

    @property
    def seen(self) -> Tensor:
        """Tokens that each row has processed: the position of its next one."""
        return self._counts[1]

    def follow(self, lengths: list[int], seen: list[int]) -> None:
        """Make the device's counts those of the host."""
        if (lengths, seen) == self._known:
            return
        free = self._counts.shape[1] - len(lengths)
        counts = torch.tensor([lengths + [-1] * free, seen + [0] * free])
        if self._counts.is_cuda:
            # queued behind the running step; pinned memory is not used again before the copy has happened
            counts = counts.pin_memory()
        self._counts.copy_(counts, non_blocking=True)
        self._known = (list(lengths), list(seen))

    def add(self, n_rows: int, n_new: int, lengths: list[int], seen: list[int]) -> None:
        """Count `n_new` tokens for each of `n_rows` rows; the host's lists are then these."""
        self._counts[:, :n_rows] += n_new
        self.counted(lengths, seen)

    def counted(self, lengths: list[int], seen: list[int]) -> None:
        """The device has counted on by itself, to these."""
        self._known = (list(lengths), list(seen))
