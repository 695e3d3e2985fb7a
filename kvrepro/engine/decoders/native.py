"""A decode step for a CPU in compiled code: the interface of `FusedDecoder`, near the speed of the memory.

A step of a small batch is bound by reading the weights once. torch's products reach a fifth of that here, and its
parts of a step wait for each other; this step reads weights and slots where they lie, each once, with all of a layer's
work in one parallel region. Rows do not influence each other's bits, so a reply does not depend on the batch.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...cache.slots import CompressedCache
from ...kernels.native.decode_step import DTYPES, DecodeStep, LayerWeights
from ...kernels.native.library import NativeUnavailableError, load_library
from ...paths import native_folder
from ..stage_timer import StageTimer


class NativeDecoder:
    """Steps of the Llama layout in float32 or bfloat16 on a CPU; equal to `FusedDecoder` up to rounding (tested).

    Logits are float32. In bfloat16 weights, keys and values are bfloat16 and everything between them float32. The model
    is one that `refusal` has nothing against; its weights are read where they lie: they may change there, but not move.

    Deviates: Hugging Face rounds every intermediate result to bfloat16.
    """

    name: ClassVar[str] = "native"
    captures: ClassVar[bool] = False
    batch_invariant: ClassVar[bool] = True

    def __init__(self, model: PreTrainedModel):
        body, heads = model.model, model.config.num_attention_heads
        self.model, self.embed, self.rotary = model, body.embed_tokens, body.rotary_emb
        layers, norm = [_weights(layer) for layer in body.layers], body.norm
        head_dim = layers[0].query[0].shape[0] // heads
        sizes = (heads, model.config.num_key_value_heads, head_dim)
        end = (norm.weight.data, norm.variance_epsilon, _pair(model.get_output_embeddings()))
        self.compiled = DecodeStep(load_library(native_folder()), layers, *end, *sizes)

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: CompressedCache, timer: StageTimer | None = None) -> tuple[Tensor, Tensor]:
        """See `choose`."""
        step, shape = self.compiled, cache.shape
        cache.open_step(len(tokens))
        x = self.embed(tokens).float()
        cos, sin = (angle[:, 0].contiguous() for angle in self.rotary(x, cache.next_positions()))
        where = (x, cache.kv, cache.step_slots, cache.span, cos, sin)
        sizes = dict(rows=len(tokens), q_heads=shape.q_heads, head_dim=shape.head_dim)
        if cache.on_mass is None:
            queries = None if cache.query_ring is None else self._queries(shape.layers, **sizes)
            step.layers(*where, queries=queries, timer=timer)
            if queries is not None:
                cache.query_ring.write_layers(queries, cache.step_rows, cache.step_positions)
        else:
            # a method looks at the attention of every layer before the next one runs
            mass = torch.empty(len(tokens), shape.kv_heads, shape.q_heads // shape.kv_heads, cache.span)
            queries = self._queries(1, **sizes)
            for layer in range(shape.layers):
                step.layers(*where, layer, layer + 1, queries, mass, timer)
                cache.observe(layer, queries[0], mass)
        cache.close_step()
        return step.head(x, timer)

    def _queries(self, layers: int, rows: int, q_heads: int, head_dim: int) -> Tensor:
        return torch.empty(layers, rows, q_heads, head_dim, dtype=self.compiled.dtype)


@cache
def unavailable() -> str | None:
    """Why compiled steps cannot be had on this machine, or None; the first call builds them."""
    try:
        load_library(native_folder())
    except NativeUnavailableError as error:
        return str(error)
    return None


def refusal(model: PreTrainedModel) -> str | None:
    """Why the compiled step does not serve this model (of the Llama layout) here, or None."""
    if model.device.type != "cpu":
        return f"the model is on {model.device}, not on the CPU"
    dtypes = {p.dtype for p in model.parameters()}
    if len(dtypes) > 1 or not dtypes <= set(DTYPES):
        found, served = (", ".join(sorted(map(str, names))) for names in (dtypes, DTYPES))
        return f"the weights are {found}; it serves one of {served}"
    return unavailable()


def _weights(layer: nn.Module) -> LayerWeights:
    attention, before, after = layer.self_attn, layer.input_layernorm, layer.post_attention_layernorm
    letters = {"query": "q", "key": "k", "value": "v", "out": "o"}
    products = {name: _pair(getattr(attention, f"{letter}_proj")) for name, letter in letters.items()}
    products |= {name: _pair(getattr(layer.mlp, f"{name}_proj")) for name in ("gate", "up", "down")}
    norms = {"input_norm": before.weight.data, "mlp_norm": after.weight.data}
    eps = {"input_eps": before.variance_epsilon, "mlp_eps": after.variance_epsilon}
    return LayerWeights(**products, **norms, **eps, scaling=attention.scaling)


def _pair(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    return linear.weight.data, None if linear.bias is None else linear.bias.data
