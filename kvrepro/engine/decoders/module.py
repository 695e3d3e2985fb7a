"""A decode step through the model's own forward: serves any decoder with full attention in every layer."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from transformers import PreTrainedModel

from ...cache.slots import CompressedCache
from ..stage_timer import StageTimer


class ModuleDecoder:
    """Steps through the model's own forward."""

    name: ClassVar[str] = "module"
    batch_invariant: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def step(self, tokens: Tensor, cache: CompressedCache, timer: StageTimer | None = None) -> tuple[Tensor, Tensor]:
        """See `choose`; the parts of a step lie inside the model, so no timer is told them."""
        caught: list[Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            out = self.model(
                input_ids=tokens[:, None],
                position_ids=cache.next_positions(),
                past_key_values=cache,
                use_cache=True,
                slots=cache,
            )
        finally:
            hook.remove()
        # a model spread over several GPUs ends on the last one; what the engine does next happens on the first
        return out.logits[:, -1].to(tokens.device), caught[0][:, -1].to(tokens.device)
