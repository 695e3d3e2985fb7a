"""Drawn tokens on their way to the host."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from ..errors import KvreproError


class AsyncTokens:
    """Drawn tokens, read by the host a few steps after they were drawn, so that no step waits for the host.

    Args:
        delay_steps: steps between drawing and reading; 0 reads at once.

    A row that has ended is noticed `delay_steps` steps late: what it drew since must be dropped.

    Raises:
        KvreproError: negative `delay_steps`.
    """

    def __init__(self, delay_steps: int = 4):
        if delay_steps < 0:
            raise KvreproError(f"delay_steps={delay_steps}: must be 0 or above")
        self.delay_steps = delay_steps
        self._unread: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def __len__(self) -> int:
        """Steps that have not been read."""
        return len(self._unread)

    def push(self, tokens: Tensor) -> list[int] | None:
        """Hand over the `[B]` tokens of a step; returns those of `delay_steps` steps ago, None while there are none."""
        # the copy is queued, not awaited; the clone protects it from a sampler with a static output
        copied = tokens.clone() if not tokens.is_cuda else torch.empty_like(tokens, device="cpu", pin_memory=True)
        event = None
        if tokens.is_cuda:
            copied.copy_(tokens, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._unread.append((copied, event))
        return self._read() if len(self._unread) > self.delay_steps else None

    def drain(self) -> list[list[int]]:
        """What has not been read yet, oldest first."""
        return [self._read() for _ in range(len(self._unread))]

    def _read(self) -> list[int]:
        tokens, event = self._unread.popleft()
        if event is not None:
            event.synchronize()
        return tokens.tolist()
