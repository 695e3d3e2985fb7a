"""Cases of `sample`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..reference.sampling import sample as reference
from ..sample import STEM, sample
from .common import DTYPES, exact

__all__ = ["CASES", "LARGE_CASES", "STEM", "Case", "errors", "inputs"]


@dataclass(frozen=True)
class Case:
    """Sizes and settings."""

    rows: int
    vocabulary: int
    temperature: float = 0.6
    top_k: int = 20
    top_p: float = 0.95
    order: str = "hf"
    dtype: str = "fp32"
    broken: bool = False  # the first rows hold logits that no token can be drawn from


CASES = [
    Case(4, 230),
    Case(16, 1500, 0.6, 20, 0.95),
    Case(8, 3000, 1.0, 5, 0.8, "dynts"),
    Case(4, 2500, 1.3, 7, 1.0),
    Case(3, 1025, 0.9, 50, 0.7),
    Case(2, 11, 0.7, 20, 0.9, "dynts"),
    Case(2, 1, 0.7, 20, 0.9),
    Case(4, 1100, 1.0, 1, 0.5),
    Case(4, 1500, 0.6, 20, 0.95, "hf", "fp16"),
    Case(4, 1500, 0.6, 20, 0.95, "dynts", "bf16"),
    Case(6, 2500, broken=True),
    Case(6, 2500, 1.0, 5, 1.0, "dynts", "fp16", broken=True),
]
LARGE_CASES = [
    Case(20, 128256, dtype="fp32"),
    Case(128, 152064, 0.6, 20, 0.95, "dynts"),
    Case(20, 152064, 1.0, 100, 0.9, dtype="fp16"),
]


def inputs(case: Case, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits without ties among the largest (torch leaves their order open), keys of any sign, steps."""
    g = torch.Generator().manual_seed(case.vocabulary)
    # distinct multiples of 1/8 in a window that the dtype resolves, the rest far below
    logits = torch.full((case.rows, case.vocabulary), -40.0)
    for row in logits:
        chosen = torch.randperm(case.vocabulary, generator=g)[:200]
        row[chosen] = torch.randperm(200, generator=g)[: len(chosen)] / 8.0 - 12.0
    if case.broken:
        # NaN of both signs in different chunks, +inf, nothing finite; a masked vocabulary and the last row are sound
        logits[0, 3], logits[1, -1] = float("nan"), -torch.tensor(float("nan"))
        logits[2, 7], logits[3], logits[4, ::2] = float("inf"), float("-inf"), float("-inf")
    keys = torch.randint(-(2**63), 2**63 - 1, (case.rows,), generator=g)
    steps = torch.randint(0, 20000, (case.rows,), generator=g)
    return logits.to(DTYPES[case.dtype]).to(device), keys.to(device), steps.to(device)


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """The same tokens, not the same distribution."""
    logits, keys, steps = inputs(case, device)
    settings = dict(temperature=case.temperature, top_k=case.top_k, top_p=case.top_p, order=case.order)
    found = sample(logits, keys, steps, impl=impl, **settings)
    return {"tokens": exact(found, reference(logits.float(), keys, steps, **settings))}
