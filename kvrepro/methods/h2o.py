"""H2O: heavy hitters, as defined and as DynTS' code runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ..cache.prefill import Prefill
from ..cache.slots import CompressedCache
from .base import EvictionMethod
from .query_window import QueryWindowMethod
from .views import EvictionView

if TYPE_CHECKING:
    from ..engine.requests import Request

MASS = "accumulated_mass"


@dataclass(frozen=True)
class H2OMethod(EvictionMethod):
    """Attention that each slot has received from all queries so far, the prompt's included, per layer and KV head.

    Source: H2O, arXiv 2306.14048, `h2o_hf/utils_real_drop/modify_llama.py`; docs/methods.md#h2o.
    Deviates: the query heads of a KV head are averaged (the original has one query head per KV head), and rows have
    accumulators of their own (the original adds up the batch).
    """

    name: ClassVar[str] = "h2o"
    source: ClassVar[str] = "arXiv 2306.14048"
    state: ClassVar[str] = "mass [L, B, H, S]"
    attention: ClassVar[str] = "step"

    granularity: str = "head"

    @property
    def probe_sizes(self) -> tuple[int, bool]:
        """The prompt's column sums."""
        return 0, True

    def prepare(self, cache: CompressedCache) -> None:
        """An accumulator per slot, layer and KV head."""
        mass = cache.add_slot_state(MASS, cache.shape.layers, cache.shape.kv_heads)

        def add(cache: CompressedCache, layer: int, attention: Tensor) -> None:
            rows, _, _, span = attention.shape
            mass[layer, :rows, :, :span] += attention.mean(2)

        cache.on_mass = add

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: Request) -> None:
        """Start with what the prompt's own queries paid."""
        cache.slot_state[MASS][:, row, :, : prefill.mass.shape[-1]] = prefill.mass.mean(2)

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`."""
        return view.state(MASS)


@dataclass(frozen=True)
class H2ODynTSMethod(QueryWindowMethod):
    """Attention of the one step that evicts, mean over layers and heads, one kept set.

    The published accumulator is overwritten at every step, so nothing accumulates: this is not H2O.

    Source: DynTS, arXiv 2601.18383, `inference/h2o.py`; docs/methods.md#h2o_dynts.
    Deviates: rows evict each on their own, as in `dynts`.
    """

    name: ClassVar[str] = "h2o_dynts"
    source: ClassVar[str] = "DynTS repository"
    sees_all: ClassVar[bool] = True

    obs_window: int = 1

    def score(self, view: EvictionView) -> Tensor:
        """`[1, R, 1, S]`."""
        found = [self.attention_scores(view, layers, candidates_only=False) for layers in self.layer_blocks(view)]
        return torch.cat(found).mean((0, 2), keepdim=True)
