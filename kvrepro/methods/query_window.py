"""What methods share that score slots by the attention of the last queries: no attention matrix of a step is kept."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..cache.prefill import Prefill
from ..cache.shape import CacheShape
from ..cache.slots import CompressedCache
from ..errors import KvreproError
from ..kernels.reference.scores import GROUP_REDUCTIONS, weighted_window_scores
from ..kernels.window_scores import window_scores as window_scores_kernel
from .base import EvictionMethod
from .views import EvictionView, layers_of


class QueryWindowMethod(EvictionMethod):
    """A method that looks at the attention of the last `obs_window` queries, computed when a row evicts.

    Attributes:
        obs_window: queries; must not exceed the local window, whose tokens they belong to.
        group: how the query heads of a KV head become one: `max_logits` (before the softmax), `max` or `mean`.

    Source: docs/methods.md#query-windows, docs/methods.md#smoothing-along-the-slots.
    """

    attention = "queries"
    state = "queries [B, L, Hq, w, D]"
    limits: ClassVar = {"group": GROUP_REDUCTIONS, "obs_window": 1}
    # the local window may be shorter than the queries where the softmax is the model's own, over all slots
    sees_all: ClassVar[bool] = False
    # how `smoothed` smooths; a subclass may make options of them
    pool: ClassVar[str] = "max"
    pool_kernel: ClassVar[int] = 1
    # which kernels; a test sets it to take the path of a GPU on a CPU
    impl: ClassVar[str] = "auto"

    obs_window: int = 8
    group: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool_kernel < 1 or self.pool_kernel % 2 == 0:
            raise KvreproError(f"pool_kernel={self.pool_kernel}: must be odd and at least 1")
        if not self.sees_all and self.schedule is not None and self.schedule.window < self.obs_window:
            raise KvreproError(
                f"window={self.schedule.window} is smaller than obs_window={self.obs_window}: {self.name} never scores "
                "the tokens of its observation window. Raise window or lower obs_window"
            )

    @property
    def ring_width(self) -> int:
        """Queries to keep."""
        return self.obs_window

    @property
    def probe_sizes(self) -> tuple[int, bool]:
        """The last queries of the prompt."""
        return self.ring_width, False

    def prepare(self, cache: CompressedCache) -> None:
        """A ring of queries per row and layer."""
        cache.keep_queries(self.ring_width)

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: object) -> None:
        """The prompt's last queries."""
        cache.query_ring.admit(row, prefill.queries, len(prefill.token_ids))

    def values_per_slot(self, shape: CacheShape) -> int:
        """Attention of all queries."""
        return shape.q_heads * self.ring_width

    def attention_scores(
        self,
        view: EvictionView,
        layers: slice,
        *,
        width: Tensor | None = None,
        candidates_only: bool = True,
        also_hidden: Tensor | None = None,
        total: bool = False,
    ) -> Tensor:
        """Attention of the last queries, `[l, R, H, S]` float32.

        Args:
            width: `[R]`, queries that count in each row; default `obs_window` for all.
            candidates_only: softmax over the slots outside the local window only, else over all that a query saw.
            also_hidden: bool, broadcast to `[l, R, H, S]`: further slots that the softmax leaves out.
            total: sum over the queries instead of their mean.
        """
        queries, positions = view.queries(layers, self.ring_width)
        queries, keys, scaling = queries.flatten(0, 1), view.keys(layers), view.scaling(layers)
        shape, keys = keys.shape[:2], keys.flatten(0, 1)
        first = view.seen - (self.obs_window if width is None else width)
        counted = (positions >= 0) & (positions >= first[:, None])
        if candidates_only and also_hidden is None and (keys.is_cuda or self.impl != "auto"):
            lengths = keys.new_full((len(keys),), self.candidates(view), dtype=torch.int64)
            scores = window_scores_kernel(
                queries.flatten(1, 2),
                keys,
                counted.repeat(shape[0], 1),
                scaling,
                group=self.group,
                lengths=lengths,
                impl=self.impl,
            ).unflatten(0, shape)
            return scores * counted.sum(-1)[None, :, None, None] if total else scores
        hidden = self._hidden(view, layers, positions, candidates_only)
        if also_hidden is not None:
            hidden = hidden | also_hidden[:, :, :, None]
        hidden = hidden.expand(*shape, -1, -1, -1).flatten(0, 1)
        weights = counted.float() / (1 if total else counted.sum(-1, keepdim=True).clamp(min=1))
        scores = weighted_window_scores(queries, keys, hidden, weights.repeat(shape[0], 1), scaling, self.group)
        return scores.unflatten(0, shape)

    def _hidden(self, view: EvictionView, layers: slice, positions: Tensor, candidates_only: bool) -> Tensor:
        """Slots that the softmax leaves out, bool, `[l or 1, R or 1, H or 1, w or 1, S]`; `positions` `[R, w]`."""
        if candidates_only:
            slots = torch.arange(view.length, device=positions.device)
            return slots.ge(self.candidates(view)).expand(1, 1, 1, 1, -1)
        return layers_of(view.positions, layers)[:, :, :, None] > positions[None, :, None, :, None]

    def smoothed(self, scores: Tensor, view: EvictionView) -> Tensor:
        """`scores` `[..., S]` smoothed along the candidates by the method's `pool` and `pool_kernel`."""
        return smooth(scores, self.pool_kernel, self.pool, self.candidates(view))


def smooth(scores: Tensor, kernel: int, kind: str, candidates: int) -> Tensor:
    """Smooth `scores` `[..., S]` along the first `candidates` slots, stride 1; the rest is left as it is.

    Args:
        kernel: width, odd; 1 changes nothing.
        kind: `max`, or `avg` (zeros beyond the edges count, as in the original code).
    """
    if kernel == 1 or candidates == 0:
        return scores
    flat = scores[..., :candidates].reshape(-1, 1, candidates)
    function = functional.max_pool1d if kind == "max" else functional.avg_pool1d
    smooth = function(flat, kernel, stride=1, padding=kernel // 2).view(*scores.shape[:-1], candidates)
    return torch.cat([smooth, scores[..., candidates:]], dim=-1)
