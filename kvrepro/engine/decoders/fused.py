"""A decode step of the Llama layout in torch: Llama, Qwen2 and with them the R1 distillations.

The same weights with Q, K, V and gate, up each as one product, and no module machinery per step, which is most of the
time of a small step. The fused weights replace the model's own storage, so nothing is held twice and the model still
runs.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from ...cache.slots import CompressedCache
from ...cache.static_step import StaticStep
from ...errors import KvreproError
from ...kernels.add_rms_norm import add_rms_norm
from ...kernels.append_kv import append_kv
from ...kernels.reference.attention import biased_attention
from ...kernels.silu_mul import silu_mul
from ..stage_timer import StageTimer

FUSED_TYPES = ("llama", "qwen2")


@dataclass(frozen=True)
class _Layer:
    input_norm: nn.Module
    qkv: tuple[Tensor, Tensor | None]
    out: nn.Linear
    mlp_norm: nn.Module
    gate_up: tuple[Tensor, Tensor | None]
    down: nn.Linear
    scaling: float

    @classmethod
    def of(cls, layer: nn.Module) -> _Layer:
        """A layer of the model, its projections fused in place."""
        attention, mlp = layer.self_attn, layer.mlp
        qkv = _fuse(attention.q_proj, attention.k_proj, attention.v_proj)
        gate_up, norms = _fuse(mlp.gate_proj, mlp.up_proj), (layer.input_layernorm, layer.post_attention_layernorm)
        return cls(norms[0], qkv, attention.o_proj, norms[1], gate_up, mlp.down_proj, attention.scaling)


class FusedDecoder:
    """Steps of the Llama layout with fused projections; equal to the model up to rounding (tested)."""

    name: ClassVar[str] = "fused"
    captures: ClassVar[bool] = False
    batch_invariant: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel):
        body = model.model
        self.model, self.embed, self.rotary, self.norm = model, body.embed_tokens, body.rotary_emb, body.norm
        self.head = model.get_output_embeddings()
        self.layers = [_Layer.of(layer) for layer in body.layers]

    @staticmethod
    def serves(model: PreTrainedModel) -> bool:
        """True for plain, unquantised, unsharded linear layers in the Llama layout with SiLU."""
        if model.config.model_type not in FUSED_TYPES or model.config.hidden_act != "silu":
            return False
        first = model.model.layers[0]
        linears = (first.self_attn.q_proj, first.self_attn.o_proj, first.mlp.gate_proj, first.mlp.down_proj)
        devices = {p.device for p in model.parameters()}
        return all(type(m) is nn.Linear for m in linears) and len(devices) == 1

    def step(self, tokens: Tensor, cache: CompressedCache, timer: StageTimer | None = None) -> tuple[Tensor, Tensor]:
        """See `choose`."""
        shape = cache.shape
        cos, sin = self.rotary(self.embed.weight, cache.next_positions())

        def attend(index: int, qkv: Tensor) -> Tensor:
            # queries and keys are rotated together, by their own position
            turned = qkv[:, : shape.q_heads + shape.kv_heads]
            left, right = turned.chunk(2, dim=-1)
            turned = turned * cos + torch.cat((-right, left), dim=-1) * sin
            query, key = turned.split((shape.q_heads, shape.kv_heads), dim=1)
            keys, values = cache.append(index, key[:, :, None], qkv[:, -shape.kv_heads :, None])
            bias, scaling = cache.attention_bias, self.layers[index].scaling
            with_mass = cache.on_mass is not None
            out, mass = biased_attention(query, keys, values, bias, scaling, with_mass=with_mass)
            cache.observe(index, query, mass)
            return out

        return self.run(tokens, shape.head_dim, attend, timer)

    def static_step(self, tokens: Tensor, step: StaticStep) -> tuple[Tensor, Tensor]:
        """A step of `[B]` tokens in static shapes, with the kernels of `step`; returns as `step`."""
        cos, sin = (angle[:, 0] for angle in self.rotary(self.embed.weight, step.rotated_by))

        def attend(index: int, qkv: Tensor) -> Tensor:
            keys, values = step.storage(index)
            query = append_kv(qkv, cos, sin, keys, values, step.slots, impl=step.impl)
            return step.attend(index, query, keys, values, self.layers[index].scaling)

        return self.run(tokens, step.cache.shape.head_dim, attend, impl=step.impl)

    def run(
        self,
        tokens: Tensor,
        head_dim: int,
        attend: Callable[[int, Tensor], Tensor],
        timer: StageTimer | None = None,
        impl: str = "reference",
    ) -> tuple[Tensor, Tensor]:
        """The model around its attention: embedding, layers, norm, head; returns as `step`.

        Args:
            tokens: `[B]`.
            attend: given a layer's index and its projections `[B, Hq + 2H, D]` before rotation (queries, keys, values);
                writes the new slot and returns `[B, Hq, D]`.
            impl: which kernels between the products, see `kvrepro.kernels`.
        """
        timed = nullcontext if timer is None else timer.section
        rows, x, added = len(tokens), self.embed(tokens), None
        for index, layer in enumerate(self.layers):
            with timed("projections"):
                # the norm adds what the last part gave, so that a sum is never a launch of its own
                normed, x = _norm(x, added, layer.input_norm, impl)
                qkv = linear(normed, *layer.qkv).view(rows, -1, head_dim)
            with timed("attention"):
                attended = attend(index, qkv).reshape(rows, -1)
            with timed("projections"):
                added = linear(attended, layer.out.weight, layer.out.bias)
            with timed("mlp"):
                normed, x = _norm(x, added, layer.mlp_norm, impl)
                added = linear(silu_mul(linear(normed, *layer.gate_up), impl=impl), layer.down.weight, layer.down.bias)
        with timed("head"):
            normed, _ = _norm(x, added, self.norm, impl)
            return linear(normed, self.head.weight, self.head.bias), normed


def check_layout(model: PreTrainedModel, kind: str) -> None:
    """Raise `KvreproError` unless the decoder `kind`, which knows the Llama layout, serves the model."""
    if not FusedDecoder.serves(model):
        raise KvreproError(
            f"decoder={kind!r} serves plain linear layers of model types {', '.join(FUSED_TYPES)} on one device, "
            f"not this {type(model).__name__} (model type {model.config.model_type!r}); use decoder='auto'"
        )


def _norm(x: Tensor, added: Tensor | None, norm: nn.Module, impl: str) -> tuple[Tensor, Tensor]:
    """`(norm(x + added), x + added)` with the weight and epsilon of a Llama norm layer."""
    return add_rms_norm(x, added, norm.weight, norm.variance_epsilon, impl=impl)


def _fuse(*linears: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Concatenate weights (and biases) along the output and point the modules at their parts of the result."""
    parts = []
    for name in ("weight", "bias"):
        tensors = [getattr(m, name) for m in linears]
        if tensors[0] is None:
            parts.append(None)
            continue
        storage = tensors[0].data.untyped_storage().data_ptr()
        if any(t.data.untyped_storage().data_ptr() != storage for t in tensors[1:]):
            fused = torch.cat([t.data for t in tensors])
            start = 0
            for t in tensors:
                t.data = fused[start : start + len(t)]
                start += len(t)
        else:
            # fused by an earlier decoder of this model
            fused = tensors[0].data.as_strided((sum(map(len, tensors)), *tensors[0].shape[1:]), tensors[0].stride())
        parts.append(fused)
    return parts[0], parts[1]
