"""The gate of a Llama MLP in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch as _launch
from .launch import ceil_div, power_of_two
from .reference import layers

STEM = "silu_mul"
LARGEST_BLOCK = 1024


def silu_mul(gate_up: Tensor, *, impl: str = "auto") -> Tensor:
    """`silu(gate) * up`, `silu(g) = g / (1 + exp(-g))`.

    Args:
        gate_up: `[B, 2I]` float32, float16 or bfloat16; the gate's I features first.
        impl: `auto`, `triton` or `reference`.

    Returns:
        `[B, I]` in the dtype of `gate_up`; `silu(gate)` is rounded to it before the product, as in torch.

    Raises:
        ValueError: a shape, stride or dtype that does not fit; names the number.
    """
    _launch.check_shape(STEM, "gate_up", gate_up, None, None)
    rows, both = gate_up.shape
    if both % 2:
        raise ValueError(f"{STEM}: gate_up has {both} features; expected an even number, gate and up")
    _launch.check_float(STEM, gate_up=gate_up)
    _launch.check_dense_last(STEM, gate_up=gate_up)
    if not _launch.choose(STEM, impl, gate_up):
        return layers.silu_mul(gate_up)
    size = both // 2
    out = torch.empty(rows, size, dtype=gate_up.dtype, device=gate_up.device)
    block = min(LARGEST_BLOCK, power_of_two(size))
    _launch.launch(
        _launch.device_code("layers").silu_mul_kernel,
        (rows, ceil_div(size, block)),
        dict(gate_up=gate_up, out=out, size=size, row_stride=gate_up.stride(0)),
        dict(BLOCK=block),
        warps=max(1, block // 256),
        stages=1,
    )
    return out
