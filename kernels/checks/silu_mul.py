"""Cases of `silu_mul`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..reference.layers import silu_mul as reference
from ..silu_mul import STEM, silu_mul
from .common import normal, relative_error

__all__ = ["CASES", "LARGE_CASES", "STEM", "Case", "errors"]


@dataclass(frozen=True)
class Case:
    """Rows, features of the gate, dtype."""

    rows: int
    size: int
    dtype: str = "fp32"


CASES = [Case(3, 64), Case(2, 77), Case(5, 1500, "bf16"), Case(4, 1025, "fp16"), Case(2, 4864, "bf16"), Case(1, 1)]
LARGE_CASES = [Case(20, 14336, "bf16"), Case(128, 18944, "bf16"), Case(20, 14336, "fp16")]


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """The product; rows lie apart, and the first row's gates are far out, where exp overflows."""
    gate_up = normal(case.rows, 2 * case.size + 8, dtype=case.dtype, seed=0, device=device)[:, : 2 * case.size]
    gate_up[0, : case.size] = torch.linspace(-200, 50, case.size, device=device).to(gate_up.dtype)
    return {"out": relative_error(silu_mul(gate_up, impl=impl), reference(gate_up))}
