"""Triton code of `add_rms_norm` and `silu_mul`: what stands between two products of a layer."""

from __future__ import annotations

import triton
import triton.language as tl

from .common import wait_for_predecessor


@triton.jit
def add_rms_norm_kernel(
    x,
    residual,
    weight,
    summed,
    normed,
    x_row,
    residual_row,
    eps,
    SIZE: tl.constexpr,
    SIZE_PAD: tl.constexpr,
    ADD: tl.constexpr,
    PDL: tl.constexpr,
):
    """One row: `s = x + residual`, `normed_d = s_d / sqrt(mean(s ** 2) + eps) * weight_d`.

    `s` is rounded to the dtype, as a sum that is stored; the rest is float32 and rounded once.

    Reference: Zhang and Sennrich, "Root mean square layer normalization", arXiv 1910.07467.
    """
    row = tl.program_id(0).to(tl.int64)
    feature = tl.arange(0, SIZE_PAD)
    mask = feature < SIZE
    # no kernel writes the weight, so it may be on its way while the kernel before still runs
    scale = tl.load(weight + feature, mask=mask, other=0.0)
    wait_for_predecessor(PDL)
    total = tl.load(x + row * x_row + feature, mask=mask, other=0.0)
    if ADD:
        other = tl.load(residual + row * residual_row + feature, mask=mask, other=0.0)
        total = (total.to(tl.float32) + other.to(tl.float32)).to(summed.dtype.element_ty)
        tl.store(summed + row * SIZE + feature, total, mask=mask)
    wide = total.to(tl.float32)
    factor = tl.rsqrt(tl.sum(wide * wide, 0) / SIZE + eps)
    result = wide * factor * scale.to(tl.float32)
    tl.store(normed + row * SIZE + feature, result.to(normed.dtype.element_ty), mask=mask)


@triton.jit
def silu_mul_kernel(gate_up, out, size, row_stride, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """One block of one row: `g / (1 + exp(-g)) * u`, the first factor rounded to the dtype as torch stores it.

    Reference: Shazeer, "GLU variants improve Transformer", arXiv 2002.05202.
    """
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    feature = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = feature < size
    gate = tl.load(gate_up + row * row_stride + feature, mask=mask, other=0.0)
    up = tl.load(gate_up + row * row_stride + size + feature, mask=mask, other=0.0)
    wide = gate.to(tl.float32)
    silu = tl.div_rn(wide, 1.0 + tl.exp(-wide)).to(gate.dtype)
    product = silu.to(tl.float32) * up.to(tl.float32)
    tl.store(out + row * size + feature, product.to(out.dtype.element_ty), mask=mask)
