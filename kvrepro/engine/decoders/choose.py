"""Which decode step a model gets: through the model itself, or one of the faster ones where its layout is known.

A decoder has `step(tokens, cache, timer=None)`: it feeds `[B]` tokens and returns logits `[B, V]` and last hidden
states `[B, hidden]` after the final norm, or raises `KvreproError` where tokens and rows differ in number or a row is
full. `captures` says whether it replays graphs: it then also has `step_and_draw(cache, tail)`, a step that holds
observation and sampling and returns the drawn tokens. A timer is told the seconds of `projections`, `attention`, `mlp`
and `head` by those decoders that can tell them apart (`native`, `fused`). `batch_invariant` says whether a row gets the
same bits whatever its neighbours. torch's products do not promise that: they sum in another order for one row than for
several, and attention for another longest row. In float32 that is far below what moves a draw; in bfloat16 and float16
some replies differ.
"""

from __future__ import annotations

import warnings

from transformers import PreTrainedModel

from ...errors import KvreproError
from .fused import FusedDecoder, check_layout
from .graph import GraphDecoder
from .module import ModuleDecoder
from .native import NativeDecoder, refusal

DECODERS = ("auto", "native", "fused", "graph", "module")


def make_decoder(
    model: PreTrainedModel, kind: str = "auto"
) -> ModuleDecoder | FusedDecoder | NativeDecoder | GraphDecoder:
    """A decoder by name; `KvreproError` for an unknown one, or one that does not serve the model.

    `auto`: what serves the model fastest: `graph` on one GPU; on a CPU `native` where the layout is known, and `fused`
    where that cannot be had, which a warning says; else the model's own forward, launch by launch, of which a GPU is
    warned. `native` (compiled code), `fused` (torch), `graph` (static buffers and CUDA graphs) and `module` insist.
    """
    if kind not in DECODERS:
        raise KvreproError(f"decoder={kind!r}: known are {', '.join(DECODERS)}")
    if kind == "auto":
        kind = _fastest(model, FusedDecoder.serves(model))
    if kind == "module":
        return ModuleDecoder(model)
    if kind == "graph":
        return GraphDecoder(model)
    check_layout(model, kind)
    if kind == "fused":
        return FusedDecoder(model)
    if reason := refusal(model):
        raise KvreproError(f"decoder='native' cannot run: {reason}; use decoder='auto'")
    return NativeDecoder(model)


def _fastest(model: PreTrainedModel, is_known: bool) -> str:
    """What `auto` stands for; a choice that costs speed is said."""
    devices = {p.device for p in model.parameters()}
    if model.device.type == "cuda" and len(devices) == 1:
        return "graph"
    if not is_known and model.device.type != "cuda":
        return "module"
    if is_known:
        reason = refusal(model)
        if reason is None:
            return "native"
        kind, slow = "fused", f"the compiled decode step cannot run ({reason}); torch's products decode instead, slower"
    else:
        kind = "module"
        slow = (
            f"{type(model).__name__} lies on {len(devices)} devices and decodes through its own forward, launch by "
            "launch: a CUDA graph serves one device. Speeds are not those of the graph decoder"
        )
    warnings.warn(slow, RuntimeWarning, stacklevel=4)
    return kind
