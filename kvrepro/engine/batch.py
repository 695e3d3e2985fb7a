"""The rows that are being decoded: their replies on the host, what a step needs of them on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cache.noise import EVICTION, SAMPLING, row_key
from ..methods.views import NEVER
from .requests import Completion, Request


class Row:
    """A live row: its completion so far and its keys.

    Attributes:
        entered: steps that the run had done when the row came.
        answer_from: position of the think-end tag, `NEVER` while the thought is open.
        ended: the completion is finished; what the row drew since is dropped.
    """

    def __init__(self, request: Request, seed: int):
        key = (seed, request.problem_id, request.sample_id)
        self.sampling_key, self.eviction_key = row_key(*key, SAMPLING), row_key(*key, EVICTION)
        self.completion = Completion(request)
        self.entered = 0
        self.answer_from = NEVER
        self.ended = False

    @property
    def n_prompt(self) -> int:
        """Prompt tokens."""
        return len(self.completion.request.prompt_ids)

    @property
    def forced(self) -> tuple[int, ...] | None:
        """The reply, if the request gives it."""
        return self.completion.request.forced_ids

    def limit(self, max_new_tokens: int) -> int:
        """Tokens after which the reply ends, whatever they are."""
        return max_new_tokens if self.forced is None else min(len(self.forced), max_new_tokens)


class ActiveBatch:
    """Rows in the order of the cache, and per row on the device: newest token, sampling key, tokens drawn.

    Args:
        max_rows: rows that may live at once.
        device: of the cache.
    """

    def __init__(self, max_rows: int, device: torch.device):
        self.rows: list[Row] = []
        self.n_steps = 0
        self._state = torch.zeros(3, max_rows, dtype=torch.int64, device=device)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def newest(self) -> Tensor:
        """`[B]` int64: the token that each row takes next."""
        return self._state[0, : len(self.rows)]

    @property
    def keys(self) -> Tensor:
        """`[B]` int64: the rows' sampling keys."""
        return self._state[1, : len(self.rows)]

    @property
    def steps(self) -> Tensor:
        """`[B]` int64: index in the reply of the token that each row draws next."""
        return self._state[2, : len(self.rows)]

    def n_drawn(self, row: Row) -> int:
        """Tokens that a live row has drawn; the last ones may not have reached the host, and so not its completion."""
        return self.n_steps - row.entered + 1

    def admit(self, row: Row, token: int) -> None:
        """Append a row that has drawn its first token, or none (below 0)."""
        row.entered = self.n_steps
        self._state[:, len(self.rows)] = torch.tensor([max(0, token), row.sampling_key, 1])
        self.rows.append(row)

    def advance(self, tokens: Tensor) -> None:
        """Every row has drawn a token, `tokens` `[B]` int64; a row that could draw none (below 0) is fed token 0."""
        # such a row is stepped on until the host has read what it drew, and no embedding has an index below 0
        torch.clamp(tokens, min=0, out=self.newest)
        self.steps.add_(1)
        self.n_steps += 1

    def release(self, index: int) -> None:
        """Drop a row; the last one takes its place."""
        last = len(self.rows) - 1
        self._state[:, index] = self._state[:, last].clone()
        self.rows[index] = self.rows[last]
        self.rows.pop()
