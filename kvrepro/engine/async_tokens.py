"""Drawn tokens on their way to the host."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import KvreproError

if TYPE_CHECKING:
    from .batch import Row


class AsyncTokens:
    """Drawn tokens, read by the host some steps later, so that no step waits for it; `delay_steps` 0 reads at once.

    A row that has ended is noticed as many steps late: what it drew since must be dropped.
    """

    def __init__(self, delay_steps: int = 4):
        if delay_steps < 0:
            raise KvreproError(f"delay_steps={delay_steps}: must be 0 or above")
        self.delay_steps = delay_steps
        self._unread: deque[tuple[list[Row], Tensor, torch.cuda.Event | None]] = deque()

    def __len__(self) -> int:
        """Steps that have not been read."""
        return len(self._unread)

    def push(self, rows: list[Row], tokens: Tensor) -> tuple[list[Row], list[int]] | None:
        """Hand over a step's rows and `[B]` tokens; returns those of `delay_steps` steps ago, if there are any."""
        # the copy is queued, not awaited; the clone protects it from a sampler with a static output
        copied = tokens.clone() if not tokens.is_cuda else torch.empty_like(tokens, device="cpu", pin_memory=True)
        event = None
        if tokens.is_cuda:
            copied.copy_(tokens, non_blocking=True)
            event = torch.cuda.Event()
            # of the tokens' device, which need not be the current one
            event.record(torch.cuda.current_stream(tokens.device))
        self._unread.append((list(rows), copied, event))
        return self._read() if len(self._unread) > self.delay_steps else None

    def drain(self) -> list[tuple[list[Row], list[int]]]:
        """The steps that have not been read yet, oldest first."""
        return [self._read() for _ in range(len(self._unread))]

    def _read(self) -> tuple[list[Row], list[int]]:
        rows, tokens, event = self._unread.popleft()
        if event is not None:
            event.synchronize()
        return rows, tokens.tolist()
