"""One decode step of a Hugging Face decoder: through the model itself, or fused where its layout is known.

`ModuleDecoder` serves any decoder and calls the model. `FusedDecoder` serves the Llama layout (Llama, Qwen2 and
with them the R1 distillations): the same weights with Q, K, V and gate, up each as one product, and no module
machinery per step, which is most of the time of a small step. The fused weights replace the model's own storage,
so nothing is held twice and the model still runs. `native_decoder` (compiled code, for a CPU) and `graph_decoder` (CUDA
graphs) serve the same layout faster, each where it can; `make_decoder` chooses.

A decoder says with `batch_invariant` whether a row gets the same bits whatever its neighbours. torch's products do not
promise that: they sum in another order for one row than for several, and attention for another longest row. In float32
that is far below what moves a draw; in bfloat16 and float16 some replies differ.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...cache.slots import CompressedCache
from ...errors import KvreproError
from ...kernels import reference

if TYPE_CHECKING:
    from .graph import GraphDecoder
    from .native import NativeDecoder

FUSED_TYPES = ("llama", "qwen2")
DECODERS = ("auto", "native", "fused", "graph", "module")


class ModuleDecoder:
    """Steps through the model's own forward."""

    name: ClassVar[str] = "module"
    batch_invariant: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel):
        self.model = model

    def step(self, tokens: Tensor, cache: CompressedCache) -> tuple[Tensor, Tensor]:
        """Feed `[B]` tokens; returns logits `[B, V]` and last hidden states `[B, hidden]` after the final norm."""
        caught: list[Tensor] = []
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: caught.append(args[0]))
        try:
            out = self.model(
                input_ids=tokens[:, None], position_ids=cache.next_positions(), past_key_values=cache, use_cache=True,
                slots=cache,
            )  # fmt: skip
        finally:
            hook.remove()
        # a model spread over several GPUs ends on the last one; what the engine does next happens on the first
        return out.logits[:, -1].to(tokens.device), caught[0][:, -1].to(tokens.device)


@dataclass(frozen=True)
class _Layer:
    input_norm: nn.Module
    qkv: tuple[Tensor, Tensor | None]
    out: nn.Linear
    mlp_norm: nn.Module
    gate_up: tuple[Tensor, Tensor | None]
    down: nn.Linear
    scaling: float


class FusedDecoder:
    """Steps of the Llama layout with fused projections; equal to the model up to rounding (tested)."""

    name: ClassVar[str] = "fused"
    batch_invariant: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel):
        body = model.model
        self.model, self.embed, self.rotary, self.norm = model, body.embed_tokens, body.rotary_emb, body.norm
        self.head = model.get_output_embeddings()
        self.layers = [
            _Layer(
                layer.input_layernorm,
                _fuse(layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj),
                layer.self_attn.o_proj, layer.post_attention_layernorm,
                _fuse(layer.mlp.gate_proj, layer.mlp.up_proj), layer.mlp.down_proj, layer.self_attn.scaling,
            )
            for layer in body.layers
        ]  # fmt: skip

    @staticmethod
    def serves(model: PreTrainedModel) -> bool:
        """True for plain, unquantised, unsharded linear layers in the Llama layout with SiLU."""
        if model.config.model_type not in FUSED_TYPES or model.config.hidden_act != "silu":
            return False
        first = model.model.layers[0]
        linears = (first.self_attn.q_proj, first.self_attn.o_proj, first.mlp.gate_proj, first.mlp.down_proj)
        devices = {p.device for p in model.parameters()}
        return all(type(m) is nn.Linear for m in linears) and len(devices) == 1

    def step(self, tokens: Tensor, cache: CompressedCache) -> tuple[Tensor, Tensor]:
        """As `ModuleDecoder.step`."""
        shape = cache.shape
        x = self.embed(tokens)
        cos, sin = self.rotary(x, cache.next_positions())
        rows = len(tokens)
        for index, layer in enumerate(self.layers):
            qkv = nn.functional.linear(rms(x, layer.input_norm), *layer.qkv).view(rows, -1, shape.head_dim)
            # queries and keys are rotated together, by their own position
            turned = qkv[:, : shape.q_heads + shape.kv_heads]
            left, right = turned.chunk(2, dim=-1)
            turned = turned * cos + torch.cat((-right, left), dim=-1) * sin
            query, key = turned.split((shape.q_heads, shape.kv_heads), dim=1)
            keys, values = cache.append(index, key[:, :, None], qkv[:, -shape.kv_heads :, None])
            out, mass = reference.decode_attention(
                query, keys, values, cache.attention_bias, layer.scaling, with_mass=cache.on_mass is not None
            )
            cache.observe(index, query, mass)
            x = x + nn.functional.linear(out.reshape(rows, -1), layer.out.weight, layer.out.bias)
            gate, up = nn.functional.linear(rms(x, layer.mlp_norm), *layer.gate_up).chunk(2, dim=-1)
            x = x + nn.functional.linear(nn.functional.silu(gate) * up, layer.down.weight, layer.down.bias)
        x = rms(x, self.norm)
        return nn.functional.linear(x, self.head.weight, self.head.bias), x


def make_decoder(
    model: PreTrainedModel, kind: str = "auto"
) -> ModuleDecoder | FusedDecoder | NativeDecoder | GraphDecoder:
    """A decoder by name.

    `auto`: what serves the model fastest where the layout is known: `graph` on a GPU, `native` on a CPU and `fused`
    where that cannot be had, which a warning says; else the model's own forward, of which a GPU is warned. `native`
    (compiled code), `fused` (torch), `graph` (static buffers and CUDA graphs) and `module` insist.

    Raises:
        KvreproError: an unknown kind, or one that does not serve the model.
    """
    if kind not in DECODERS:
        raise KvreproError(f"decoder={kind!r}: known are {', '.join(DECODERS)}")
    is_known = FusedDecoder.serves(model)
    if kind == "auto":
        kind = _fastest(model, is_known)
    if kind == "module":
        return ModuleDecoder(model)
    if kind == "graph":
        from .graph import GraphDecoder

        return GraphDecoder(model)
    if not is_known:
        raise KvreproError(
            f"decoder={kind!r} serves plain linear layers of model types {', '.join(FUSED_TYPES)} on one device, "
            f"not this {type(model).__name__} (model type {model.config.model_type!r}); use decoder='auto'"
        )
    if kind == "fused":
        return FusedDecoder(model)
    from .native import NativeDecoder, refusal

    if reason := refusal(model):
        raise KvreproError(f"decoder='native' cannot run: {reason}; use decoder='auto'")
    return NativeDecoder(model)


def _fastest(model: PreTrainedModel, is_known: bool) -> str:
    """What `auto` stands for; a choice that costs speed is said."""
    on_gpu = model.device.type == "cuda"
    if not is_known:
        if on_gpu:
            warnings.warn(
                f"{type(model).__name__} (model type {model.config.model_type!r}) decodes through its own forward, "
                f"launch by launch: CUDA graphs serve plain linear layers of {', '.join(FUSED_TYPES)} on one device. "
                "Speeds are not those of the graph decoder",
                RuntimeWarning,
                stacklevel=4,
            )
        return "module"
    if on_gpu:
        return "graph"
    from .native import refusal

    reason = refusal(model)
    if reason is None:
        return "native"
    warnings.warn(
        f"the compiled decode step cannot run ({reason}); torch's products decode instead, slower",
        RuntimeWarning,
        stacklevel=4,
    )
    return "fused"


def rms(x: Tensor, norm: nn.Module) -> Tensor:
    """Root-mean-square norm with the weight and epsilon of a Llama norm layer."""
    return nn.functional.rms_norm(x, x.shape[-1:], norm.weight, norm.variance_epsilon)


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
