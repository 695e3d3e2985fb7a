"""SepLLM: separators stand for the segments that they close."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ..cache.prefill import Prefill
from ..cache.slots import CompressedCache
from ..errors import KvreproError
from .base import EvictionMethod
from .views import EvictionView, StepView

SEPARATOR = "is_separator"

# larger than any position, and exact in float32 together with one
ABOVE_POSITIONS = 2.0**22


# never dropped: a CUDA graph may read it
@cache
def separator_table(separators: tuple[int, ...], device: torch.device) -> Tensor:
    """1 at the ids of separators, 0 at all others up to one beyond the last; made once, so that no step sends it."""
    table = torch.zeros(max(separators) + 2)
    table[list(separators)] = 1.0
    return table.to(device)


class SepLLMMethod(EvictionMethod):
    """Keep `sinks` first tokens, the most recent separators that fit, and the window.

    Room that separators leave goes to the most recent other tokens in the fair protocol, and stays empty as published.

    Attributes:
        separators: token ids; by default those of `. , ? ! ; :`, space, tab and newline in the tokenizer.

    Source: SepLLM, `Streaming-SepLLM/sepllm_kv_cache/kv_cache_manager.py` (example: 4 sinks, 128 separators, window
    256, budget 512); docs/methods.md#sepllm.
    Deviates: rows do not share a separator count; the original cuts all rows to the smallest.
    """

    name = "sepllm"
    source = "HKUDS/SepLLM"
    observes_on_device = True
    state = "separator flag [B, S]"
    needs = ("separators",)

    sinks: int = 4
    separators: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.separators:
            raise KvreproError(
                f"{self.name} has no separators: the tokenizer holds none of its marks as single tokens; name token "
                "ids with separators=(...)"
            )

    def prepare(self, cache: CompressedCache) -> None:
        """A flag per slot."""
        cache.add_slot_state(SEPARATOR)

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: object) -> None:
        """Flag the prompt's separators."""
        flags = self._flags(prefill.token_ids)
        cache.slot_state[SEPARATOR][:, row, :, : len(flags)] = flags

    def observe(self, step: StepView) -> None:
        """Flag the token that was just fed."""
        step.cache.slot_state[SEPARATOR][:, step.rows, :, step.slots] = self._flags(step.tokens)[:, None, None]

    def _flags(self, tokens: Tensor) -> Tensor:
        """1 for a separator, `[n]` float32."""
        table = separator_table(self.separators, tokens.device)
        return table[tokens.clamp(max=len(table) - 1)]

    def score(self, view: EvictionView) -> Tensor:
        """Recency, separators above all others."""
        return view.positions.float() + ABOVE_POSITIONS * view.state(SEPARATOR)

    def kept_slots(self, view: EvictionView) -> Sequence[int] | Tensor:
        """As published, sinks, the separators that there are, and the window; else the budget."""
        s = self.schedule
        if s.ratio is None and s.kept is None:
            return super().kept_slots(view)
        counted = view.state(SEPARATOR)[0, :, 0].bool()
        counted = counted & (view.positions[0, :, 0] >= self.sinks)
        separators = counted[:, : view.length - s.window].sum(-1)
        return (self.sinks + separators + s.window).clamp(max=s.kept_tokens)


class SepLLMDynTSMethod(SepLLMMethod):
    """Keep the most recent separators of the candidates, at most the ratio's share, and the window.

    Source: DynTS, arXiv 2601.18383, `inference/sep.py`; docs/methods.md#sepllm_dynts.
    Deviates: rows do not share a separator count. Published, a row with fewer than the batch's most is filled up with
    recent tokens; a row alone, as here, keeps fewer than the other methods.
    """

    name = "sepllm_dynts"
    source = "DynTS repository"

    sinks: int = 0
