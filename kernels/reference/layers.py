"""Twins of the kernels between two products of a layer, which are torch's own functions in torch's own order."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def add_rms_norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `kvrepro.kernels.add_rms_norm.add_rms_norm`: `x` and `residual` `[B, N]`, `weight` `[N]`."""
    summed = x if residual is None else x + residual
    return functional.rms_norm(summed, weight.shape, weight, eps), summed


def silu_mul(gate_up: Tensor) -> Tensor:
    """As `kvrepro.kernels.silu_mul.silu_mul`: `[B, 2I]`, gate first; returns `[B, I]`."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate) * up
