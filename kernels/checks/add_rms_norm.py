"""Cases of `add_rms_norm`."""

from __future__ import annotations

from dataclasses import dataclass

from ..add_rms_norm import STEM, add_rms_norm
from ..reference.layers import add_rms_norm as reference
from .common import exact, normal, relative_error

__all__ = ["CASES", "LARGE_CASES", "STEM", "Case", "errors"]


@dataclass(frozen=True)
class Case:
    """Shape and dtype; `add` off is the first norm of a step."""

    rows: int
    size: int
    dtype: str = "fp32"
    add: bool = True


CASES = [
    Case(3, 64),
    Case(2, 77),
    Case(5, 896, "bf16"),
    Case(4, 1000, "fp16"),
    Case(2, 4096, "bf16"),
    Case(1, 8192),
    Case(3, 3584, "bf16", False),
    Case(2, 33, "fp32", False),
    Case(2, 1),
]
LARGE_CASES = [Case(20, 4096, "bf16"), Case(128, 3584, "bf16"), Case(20, 8192, "fp16"), Case(20, 4096, "bf16", False)]


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """The sum exactly, the norm of that sum within the tolerance; the first row (of several) is zero."""
    # rows of x lie apart
    x = normal(case.rows, case.size + 16, dtype=case.dtype, seed=0, device=device)[:, : case.size]
    residual = normal(case.rows, case.size, dtype=case.dtype, seed=1, device=device) * 8
    x[-1] *= 30
    x[: case.rows - 1][:1], residual[: case.rows - 1][:1] = 0, 0
    weight = normal(case.size, dtype=case.dtype, seed=2, device=device)
    added, before = residual if case.add else None, (x.clone(), residual.clone())
    normed, summed = add_rms_norm(x, added, weight, 1e-5, impl=impl)
    total = reference(x, added, weight, 1e-5)[1]
    # the interpreter cuts where it should round to bfloat16
    same = relative_error if device == "cpu" and case.dtype == "bf16" else exact
    return {
        "normed": relative_error(normed, reference(summed, None, weight, 1e-5)[0]),
        "summed": same(summed, total),
        "x": exact(x, before[0]),
        "residual": exact(residual, before[1]),
    }
