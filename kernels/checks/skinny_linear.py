"""Cases of `skinny_linear`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..reference.linear import skinny_linear as reference
from ..skinny_linear import STEM, counters_needed, skinny_linear
from .common import exact, normal, relative_error

__all__ = ["CASES", "LARGE_CASES", "STEM", "Case", "errors"]


@dataclass(frozen=True)
class Case:
    """Sizes and dtype; `gap` elements of NaN lie between the rows of x and of the weight."""

    rows: int
    features: int
    outputs: int
    dtype: str = "fp32"
    bias: bool = False
    gap: int = 0


CASES = [
    Case(1, 1, 1),
    Case(3, 37, 65, bias=True),
    Case(20, 1001, 67, gap=3),
    Case(5, 300, 200, bias=True, gap=8),
    Case(64, 512, 64, "fp16"),
    Case(33, 2000, 130, "bf16", True),
    Case(1, 4096, 65, "bf16", gap=1),
    Case(17, 515, 64, "fp16", True, 5),
    Case(2, 48, 17_000, "bf16"),
    Case(0, 16, 8),
    Case(2, 0, 8, bias=True),
]
LARGE_CASES = [
    Case(20, 4096, 6144, "bf16"),
    Case(20, 4096, 4096, "bf16", gap=8),
    Case(20, 4096, 28672, "bf16"),
    Case(20, 14336, 4096, "bf16"),
    Case(20, 4096, 128256, "bf16"),
    Case(20, 3584, 4608, "bf16", True),
    Case(64, 18944, 3584, "bf16"),
    Case(1, 18944, 3584, "fp16"),
    Case(50, 3584, 152064, "bf16"),
    Case(20, 1001, 28672, "fp16", True),
    Case(33, 4096, 4096),
]


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """The product, that a second launch gives the same bits, and that the counters are 0 again after both."""

    def matrix(n: int, seed: int) -> torch.Tensor:
        made = normal(n, case.features + case.gap, dtype=case.dtype, seed=seed, device=device)
        made[:, case.features :] = float("nan")
        return made[:, : case.features]

    x, weight = matrix(case.rows, 0), matrix(case.outputs, 1)
    # as large as the product, so that neither hides the other
    bias = (
        normal(case.outputs, dtype=case.dtype, seed=2, device=device) * max(1, case.features) ** 0.5
        if case.bias
        else None
    )
    counters = torch.zeros(counters_needed(x.device), dtype=torch.int32, device=device)
    found, again = (skinny_linear(x, weight, bias, counters=counters, impl=impl) for _ in range(2))
    expected = reference(x.float(), weight.float(), None if bias is None else bias.float())
    return {
        "out": relative_error(found, expected),
        "again": exact(again, found),
        "counters": exact(counters, torch.zeros_like(counters)),
    }
