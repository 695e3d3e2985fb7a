"""A decode step through the model's own forward: serves any decoder with full attention in every layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from ...cache.slots import CompressedCache
from ...cache.static_step import StaticStep
from ..stage_timer import StageTimer


class ModuleDecoder:
    """Steps through the model's own forward."""

    name: ClassVar[str] = "module"
    captures: ClassVar[bool] = False
    batch_invariant: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def step(self, tokens: Tensor, cache: CompressedCache, timer: StageTimer | None = None) -> tuple[Tensor, Tensor]:
        """See `choose`; the parts of a step lie inside the model, so no timer is told them."""
        logits, hidden = self._forward(tokens, cache.next_positions(), cache)
        # a model spread over several GPUs ends on the last one; what the engine does next happens on the first
        return logits.to(tokens.device), hidden.to(tokens.device)

    def static_step(self, tokens: Tensor, step: StaticStep) -> tuple[Tensor, Tensor]:
        """A step of `[B]` tokens in static shapes; returns as `step`."""
        step.cache.static_step = step
        try:
            return self._forward(tokens, step.rotated_by, step.cache)
        finally:
            step.cache.static_step = None

    def _forward(self, tokens: Tensor, positions: Tensor, cache: CompressedCache) -> tuple[Tensor, Tensor]:
        caught: list[Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            out = self.model(
                input_ids=tokens[:, None], position_ids=positions, past_key_values=cache, use_cache=True, slots=cache
            )
        finally:
            hook.remove()
        return out.logits[:, -1], caught[0][:, -1]
