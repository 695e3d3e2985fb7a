"""H2O: heavy hitters, as defined and as DynTS' code runs it."""

from __future__ import annotations

from torch import Tensor

from ..cache.prefill import Prefill
from ..cache.slots import CompressedCache
from .query_window import QueryWindowMethod
from .step_attention import StepAttentionMethod
from .views import EvictionView

MASS = "accumulated_mass"


class H2OMethod(StepAttentionMethod):
    """Attention that each slot has received from all queries so far, the prompt's included, per layer and KV head.

    Source: H2O, arXiv 2306.14048, `h2o_hf/utils_real_drop/modify_llama.py`; docs/methods.md#h2o.
    Deviates: the query heads of a KV head are averaged (the original has one query head per KV head), and rows have
    accumulators of their own (the original adds up the batch).
    """

    name = "h2o"
    source = "arXiv 2306.14048"
    state = "mass [L, B, H, S]"
    carried = (MASS,)
    probe_sizes = (0, True)

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: object) -> None:
        """Start with what the prompt's own queries paid."""
        cache.slot_state[MASS][:, row, :, : prefill.mass.shape[-1]] = prefill.mass.mean(2)

    def attended(self, cache: CompressedCache, layer: int, attention: Tensor) -> None:
        """Add the step, averaged over the group."""
        rows, _, _, span = attention.shape
        cache.slot_state[MASS][layer, :rows, :, :span] += attention.mean(2)

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`."""
        return view.state(MASS)


class H2ODynTSMethod(QueryWindowMethod):
    """Attention of the one step that evicts, mean over layers and heads, one kept set.

    The published accumulator is overwritten at every step, so nothing accumulates: this is not H2O.

    Source: DynTS, arXiv 2601.18383, `inference/h2o.py`; docs/methods.md#h2o_dynts.
    """

    name = "h2o_dynts"
    source = "DynTS repository"
    sees_all = True

    obs_window: int = 1

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, H, S]`."""
        return self.attention_scores(view, layers, candidates_only=False)

    def score(self, view: EvictionView) -> Tensor:
        """`[1, R, 1, S]`."""
        return super().score(view).mean((0, 2), keepdim=True)
