"""What methods share that score slots by the attention of the last queries: no attention matrix of a step is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..cache.prefill import Prefill
from ..cache.slots import CompressedCache
from ..errors import KvreproError
from ..kernels.reference.scores import GROUP_REDUCTIONS, weighted_window_scores
from ..kernels.window_scores import window_scores as window_scores_kernel
from .base import EvictionMethod
from .views import EvictionView

if TYPE_CHECKING:
    from ..engine.requests import Request


@dataclass(frozen=True)
class QueryWindowMethod(EvictionMethod):
    """A method that looks at the attention of the last `obs_window` queries, computed when a row evicts.

    Attributes:
        obs_window: queries; must not exceed the local window, whose tokens they belong to.
        group: how the query heads of a KV head become one: `max_logits` (before the softmax), `max` or `mean`.
    """

    attention: ClassVar[str] = "queries"
    state: ClassVar[str] = "queries [B, L, Hq, w, D]"
    # the local window may be shorter than the queries where the softmax is the model's own, over all slots
    sees_all: ClassVar[bool] = False
    # which kernels; a test sets it to take the path of a GPU on a CPU
    impl: ClassVar[str] = "auto"

    obs_window: int = 8
    group: str = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group not in GROUP_REDUCTIONS:
            raise KvreproError(f"group={self.group!r}: known are {', '.join(GROUP_REDUCTIONS)}")
        if self.obs_window < 1:
            raise KvreproError(f"obs_window={self.obs_window}: must be at least 1")
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

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: Request) -> None:
        """The prompt's last queries."""
        cache.query_ring.admit(row, prefill.queries, len(prefill.token_ids))

    def attention_scores(
        self, view: EvictionView, layers: slice, *, width: Tensor | None = None, candidates_only: bool = True,
        also_hidden: Tensor | None = None, total: bool = False,
    ) -> Tensor:  # fmt: skip
        """Attention of the last queries, `[l, R, H, S]` float32.

        Args:
            width: `[R]`, queries that count in each row; default `obs_window` for all.
            candidates_only: softmax over the slots outside the local window only, else over all that a query saw.
            also_hidden: bool, broadcast to `[l, R, H, S]`: further slots that the softmax leaves out.
            total: sum over the queries instead of their mean.
        """
        queries, positions = view.queries(layers, self.ring_width)
        keys = view.keys(layers)
        slot_positions = view.positions[layers] if view.positions.shape[0] > 1 else view.positions
        if candidates_only:
            candidates = view.length - self.schedule.window
            hidden = torch.arange(view.length, device=keys.device).ge(candidates).expand(1, 1, 1, 1, -1)
        else:
            hidden = slot_positions[:, :, :, None] > positions[None, :, None, :, None]
        if also_hidden is not None:
            hidden = hidden | also_hidden[:, :, :, None]
        counted = positions >= 0
        if width is not None:
            counted &= positions >= (view.seen - width)[:, None]
        else:
            counted &= positions >= (view.seen - self.obs_window)[:, None]
        n_layers, rows = keys.shape[:2]
        if candidates_only and also_hidden is None and (keys.is_cuda or self.impl != "auto"):
            found = candidate_scores(
                queries, keys, counted, candidates, view.scaling(layers), self.group, impl=self.impl
            )
            return found * counted.sum(-1)[None, :, None, None] if total else found
        weights = counted.float() / (1 if total else counted.sum(-1, keepdim=True).clamp(min=1))
        hidden = hidden.expand(n_layers, rows, -1, -1, -1).flatten(0, 1)
        found = weighted_window_scores(
            queries.flatten(0, 1), keys.flatten(0, 1), hidden, weights.repeat(n_layers, 1),
            view.scaling(layers), self.group,
        )  # fmt: skip
        return found.unflatten(0, (n_layers, rows))

    def layer_blocks(self, view: EvictionView) -> Iterator[slice]:
        """Layers whose attention is computed together."""
        return view.layer_blocks(view.cache.shape.q_heads * self.ring_width)


def candidate_scores(
    queries: Tensor, keys: Tensor, counted: Tensor, candidates: int, scaling: float, group: str, *, impl: str = "auto"
) -> Tensor:
    """Mean attention of some queries over the first `candidates` slots, by the kernel that a GPU has for it.

    Args:
        queries: `[l, R, H, G, w, D]`; `keys`: `[l, R, H, S, D]`.
        counted: `[R, w]` bool, queries that take part.
        scaling: the layers' factor on dot products.
        impl: see `kernels.window_scores`.

    Returns:
        `[l, R, H, S]` float32, 0 behind the candidates.
    """
    layers, rows = keys.shape[:2]
    lengths = torch.full((layers * rows,), candidates, dtype=torch.int64, device=keys.device)
    found = window_scores_kernel(
        queries.flatten(0, 1).flatten(1, 2), keys.flatten(0, 1), counted.repeat(layers, 1), scaling,
        group=group, lengths=lengths, impl=impl,
    )  # fmt: skip
    return found.unflatten(0, (layers, rows))


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


def check_pool(kernel: int, kind: str) -> None:
    """Raise unless the kernel is odd and the kind known."""
    if kernel < 1 or kernel % 2 == 0:
        raise KvreproError(f"pool_kernel={kernel}: must be odd and at least 1")
    if kind not in ("max", "avg"):
        raise KvreproError(f"pool={kind!r}: known are max, avg")
