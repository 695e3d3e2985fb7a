"""LazyEviction: tokens come back after a while, so the time since last use is held against the usual time."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..cache.prefill import Prefill
from ..cache.slots import CompressedCache
from .step_attention import StepAttentionMethod
from .views import EvictionView

LAST_USED, LONGEST_GAP, PROMPT_TOKENS = "last_used", "longest_gap", "prompt_tokens"


def recurrence_score(gap: Tensor, idle: Tensor) -> Tensor:
    """Importance from the longest gap between uses (`gap`, 0 if none) and the steps since the last use (`idle`).

    Source: LazyEviction, as vendored by arXiv 2604.04921; docs/methods.md#lazy_eviction.
    """
    recent = 2 / (1 + torch.exp(1 + idle / (gap + 1e-5)))
    frequent = 2 / (1 + torch.exp(gap - 1))
    return recent + torch.where(gap > 0, frequent, 0.0)


class LazyEvictionMethod(StepAttentionMethod):
    """Rank by how long a token has been idle, measured against its longest gap between two uses.

    A use is an attention of at least `importance` from any query head of the slot's KV head; uses are counted in
    decode steps of the row.

    Attributes:
        importance: alpha; 1e-4 for R1-Qwen, 5e-4 for R1-Llama.
        count_birth: a token's use at its own step counts, as in the code; it then keeps the full frequency term for
            good, even if it is never used again. False ignores that step.

    Source: LazyEviction, as vendored by arXiv 2604.04921; docs/methods.md#lazy_eviction.
    Deviates: per KV head (the original expands the cache to all query heads), counters in float32 (there in the
    activations' type).
    """

    name = "lazy_eviction"
    source = "LazyEviction, vendored by arXiv 2604.04921"
    state = "last use, longest gap [L, B, H, S]"
    carried = (LAST_USED, LONGEST_GAP)
    limits: ClassVar = {"importance": "(0, 1)"}

    importance: float = 1e-4
    count_birth: bool = True

    def prepare(self, cache: CompressedCache) -> None:
        """Two counters per slot, and the length of each row's prompt."""
        super().prepare(cache)
        cache.add_row_state(PROMPT_TOKENS)

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: object) -> None:
        """Steps are counted from the end of the prompt."""
        cache.row_state[PROMPT_TOKENS][row] = len(prefill.token_ids)

    def attended(self, cache: CompressedCache, layer: int, attention: Tensor) -> None:
        """Count the uses of this step."""
        rows, _, _, span = attention.shape
        used, gaps = cache.slot_state[LAST_USED], cache.slot_state[LONGEST_GAP]
        step = (cache.step_positions - cache.row_state[PROMPT_TOKENS][:rows] + 1)[:, None]
        # the token of step t is born at t - 1
        used[layer, cache.step_rows, :, cache.step_slots] = step - 1
        last, gap = used[layer, :rows, :, :span], gaps[layer, :rows, :, :span]
        is_used = attention.amax(2) >= self.importance
        if not self.count_birth:
            is_used[cache.step_rows, :, cache.step_slots] = False
        step = step[..., None]
        gap.copy_(torch.where(is_used, torch.maximum(gap, step - last), gap))
        last.copy_(torch.where(is_used, step, last))

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`."""
        step = (view.seen - view.n_prompt).float()[None, :, None, None]
        return recurrence_score(view.state(LONGEST_GAP), step - view.state(LAST_USED))
