"""The addition to the residual stream and the norm behind it, in one launch."""

from __future__ import annotations

import torch
from torch import Tensor

from . import launch as _launch
from .launch import power_of_two
from .reference import layers

STEM = "add_rms_norm"
# a program holds its whole row in registers
LARGEST_SIZE = 16384


def add_rms_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, *, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """`summed = x + residual`, `normed = rms_norm(summed) * weight`.

    Args:
        x: `[B, N]` float32, float16 or bfloat16.
        residual: `[B, N]` in the dtype of `x`; None adds nothing (the first norm of a step).
        weight: `[N]`, contiguous, of any of these dtypes. It may be read before the kernel in front has ended, so no
            kernel may write it while steps run.
        eps: added to the mean square.
        impl: `auto`, `triton` or `reference`.

    Returns:
        `(normed, summed)`, both `[B, N]` in the dtype of `x`. The sum is rounded to the dtype before the norm, and the
        norm is float32 inside and rounded once, as `torch.nn.functional.rms_norm` does. Without a residual `summed`
        is `x` itself.

    Raises:
        ValueError: shapes, strides or dtypes that do not fit; names the number.

    Deviates: transformers' Llama rounds the normed value to the dtype before it multiplies by the weight.
    """
    _launch.check_shape(STEM, "x", x, None, None)
    rows, size = x.shape
    added = {} if residual is None else {"residual": residual}
    for name, t in added.items():
        _launch.check_shape(STEM, name, t, rows, size)
    _launch.check_shape(STEM, "weight", weight, size)
    _launch.check_float(STEM, x=x, **added)
    _launch.check_float(STEM, weight=weight)
    _launch.check_dense_last(STEM, x=x, weight=weight, **added)
    refused = None if size <= LARGEST_SIZE else f"{size} features are more than {LARGEST_SIZE}"
    if not _launch.choose(STEM, impl, x, refused):
        return layers.add_rms_norm(x, residual, weight, eps)
    normed = torch.empty(rows, size, dtype=x.dtype, device=x.device)
    summed = x if residual is None else torch.empty_like(normed)
    other = x if residual is None else residual
    block = power_of_two(size)
    _launch.launch(
        _launch.device_code("layers").add_rms_norm_kernel,
        (rows,),
        dict(
            x=x,
            residual=other,
            weight=weight,
            summed=summed,
            normed=normed,
            x_row=x.stride(0),
            residual_row=other.stride(0),
            eps=float(eps),
        ),
        dict(SIZE=size, SIZE_PAD=block, ADD=residual is not None),
        warps=min(16, max(1, block // 512)),
        stages=1,
    )
    return normed, summed
