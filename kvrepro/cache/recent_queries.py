"""The last queries of every row, kept so that a method can score slots when it evicts instead of at every step."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

STATE = "queries"


class QueryRing:
    """A ring of the last `width` rotated queries per row and layer; position `p` lies at index `p % width`.

    Storage is a row state of the cache, `[B, L, Hq, width, D]` in the cache's dtype, so it follows its row.
    """

    def __init__(self, cache, width: int):
        shape = cache.shape
        # not a reference: the cache holds its ring
        self.cache, self.width = weakref.proxy(cache), width
        self._positions, self._places = None, None
        cache.add_row_state(STATE, shape.layers, shape.q_heads, width, shape.head_dim, dtype=cache.kv.dtype)

    @property
    def storage(self) -> Tensor:
        """`[B, L, Hq, width, D]`."""
        return self.cache.row_state[STATE]

    def write(self, layer: int, query: Tensor, rows: Tensor, positions: Tensor) -> None:
        """Store `[B, Hq, D]` of one step; `rows` and `positions` are `[B]` int64."""
        if positions is not self._positions:
            # once a step, not once a layer
            self._positions, self._places = positions, positions % self.width
        self.storage[rows, layer, :, self._places] = query

    def write_layers(self, queries: Tensor, rows: Tensor, positions: Tensor) -> None:
        """Store the queries of all layers of one step, `[L, B, Hq, D]`."""
        self.storage[rows, :, :, positions % self.width] = queries.transpose(0, 1)

    def admit(self, row: int, queries: Tensor, n_prompt: int) -> None:
        """Store the last queries of a prompt, `[L, Hq, w, D]` with `w = min(width, n_prompt)`."""
        positions = torch.arange(n_prompt - queries.shape[2], n_prompt, device=queries.device)
        self.storage[row, :, :, positions % self.width] = queries.to(self.storage.dtype)

    def read(self, rows: Tensor, seen: Tensor, width: int, layers: slice) -> tuple[Tensor, Tensor]:
        """The last `width` queries, oldest first, of some `rows` `[R]` that have `seen` `[R]` tokens.

        Returns `[l, R, Hq, width, D]`, and positions `[R, width]` int64, negative where there was no such token.
        """
        positions = seen[:, None] - width + torch.arange(width, device=rows.device)
        # not one fancy index: slices between advanced indices would move axes
        picked = self.storage[rows, layers].movedim(3, 1)
        place = (positions % self.width)[:, :, None, None, None]
        picked = picked.gather(1, place.expand(-1, -1, *picked.shape[2:]))
        return picked.permute(2, 0, 3, 1, 4), positions
