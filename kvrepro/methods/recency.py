"""Methods that keep what is recent, with and without sinks or the question."""

from __future__ import annotations

import torch
from torch import Tensor

from ..cache.prefill import Prefill
from ..cache.slots import CompressedCache, KeepPlan
from ..errors import KvreproError
from .base import EvictionMethod
from .views import EvictionView, StepView

FIRST_SLOT, FIRST_KEYS = "first_slot", "first_keys"


class WindowMethod(EvictionMethod):
    """Keep the most recent tokens; the question goes like everything else.

    Source: the `window` baseline of DynTS (`inference/window.py`, sink_type=none), at the budget of the others.
    """

    name = "window"
    source = "DynTS baseline, at equal budget"

    def score(self, view: EvictionView) -> Tensor:
        """Later positions score higher."""
        return view.positions.float()


class WindowDynTSMethod(WindowMethod):
    """Keep the last `window` tokens and nothing else, when the budget is exceeded.

    Source: DynTS, arXiv 2601.18383, `inference/window.py` (sink_type=none); docs/methods.md#window_dynts.
    """

    name = "window_dynts"
    source = "DynTS repository"


class QuestionWindowMethod(WindowMethod):
    """Keep the question and the most recent tokens.

    Source: DynTS ablation "no thinking" (`sink_type=question`).
    Deviates: the window shrinks by the question, so that the budget is that of the other methods.
    """

    name = "question_window"
    source = "DynTS ablation, at equal budget"

    pin_question: bool = True


class StreamingLLMMethod(WindowMethod):
    """Keep the first `sinks` and the most recent tokens.

    With `reindex` keys are rotated for their place in the cache, as the authors define it, and so is the query:
    positions never exceed the cache. Without it they keep their original positions, as most ports do.

    Source: StreamingLLM, arXiv 2309.17453, section 3.2; docs/methods.md#streaming_llm.
    Deviates: with `reindex` keys are turned at an eviction instead of at every step: always the key that was written
    first, by as much as its slot has moved since, so that no rounding adds up (these keys lie beside the cache and
    take half as much memory again). A token leaves after a step instead of before it, so that a step sees one slot
    more. A prompt is not evicted while it is read.
    """

    name = "streaming_llm"
    source = "arXiv 2309.17453"
    observes_on_device = True

    sinks: int = 4
    reindex: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reindex and self.granularity != "shared":
            raise KvreproError(
                f"reindex with granularity={self.granularity!r}: a query has one position, so all heads must share "
                "their slots; use granularity=shared"
            )

    @property
    def needs_rotary(self) -> bool:
        """Re-indexing turns stored keys."""
        return self.reindex

    def prepare(self, cache: CompressedCache) -> None:
        """Positions follow slots from the start; the slot of each key's first writing, and the key as it was then."""
        cache.reindexed = self.reindex
        if self.reindex:
            s = cache.shape
            cache.add_slot_state(FIRST_SLOT)
            cache.add_row_state(
                FIRST_KEYS, s.layers, s.kv_heads, self.schedule.kept_tokens, s.head_dim, dtype=cache.kv.dtype
            )

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: object) -> None:
        """The prompt lies in its slots."""
        if self.reindex:
            n_prompt = len(prefill.token_ids)
            cache.slot_state[FIRST_SLOT][:, row, :, :n_prompt] = torch.arange(n_prompt).float()

    def observe(self, step: StepView) -> None:
        """The newest token lies in its slot."""
        if self.reindex:
            step.cache.slot_state[FIRST_SLOT][:, step.rows, :, step.slots] = step.slots[:, None, None].float()

    def after_compact(self, cache: CompressedCache, plan: KeepPlan) -> None:
        """Turn each kept key, as it was first written, by as many positions as its slot has moved since."""
        if not self.reindex:
            return
        kept, before = plan.slots.shape[-1], plan.slots[0, :, 0]
        first = cache.slot_state[FIRST_SLOT][0, plan.rows, 0, :kept].long()
        stored = cache.row_state[FIRST_KEYS][plan.rows].transpose(0, 1)
        # a key that has moved before is no longer the one in the cache; what has not is still as it was written
        index = before.clamp(max=stored.shape[3] - 1)[None, :, None, :, None].expand(
            *stored.shape[:3], kept, stored.shape[4]
        )
        has_moved = (before < first)[None, :, None, :, None]
        keys = torch.where(has_moved, stored.gather(3, index), cache.kv[0][:, plan.rows, :, :kept])
        cache.row_state[FIRST_KEYS][plan.rows, :, :, :kept] = keys.transpose(0, 1)
        moved_by = torch.arange(kept, device=first.device) - first
        cache.kv[0][:, plan.rows, :, :kept] = cache.rotary.rotate(keys, moved_by[None, :, None], scaled=False)


class StreamingDynTSMethod(WindowMethod):
    """Keep the first 10 tokens of each prompt and the last `window`, at their original positions.

    Source: DynTS, arXiv 2601.18383, `inference/window.py` (sink_type=native); docs/methods.md#streaming_dynts.
    Deviates: sinks are always a row's own first tokens. The published flag "first eviction" is never reset, so that
    from the second batch on padding takes the place of the sinks of all but the longest row.
    """

    name = "streaming_dynts"
    source = "DynTS repository"

    sinks: int = 10
