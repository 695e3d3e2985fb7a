"""Cases of `key_redundancy`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..key_redundancy import STEM, key_redundancy
from ..reference.scores import key_redundancy as reference
from .common import DTYPES, lengths_of, relative_error, slot_tensor

__all__ = ["CASES", "GOLDEN_KEYS", "GOLDEN_MEANS", "LARGE_CASES", "STEM", "Case", "errors"]

# docs/methods.md#redundancy: m = [4, 4, 4, 4, 3]
GOLDEN_KEYS = ((1.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.6, 0.8))
GOLDEN_MEANS = (0.52, 0.52, 0.16, 0.40, 0.0)


@dataclass(frozen=True)
class Case:
    """Shapes, dtype, lengths; `kind` is `random`, `alike` (all keys near one another) or `golden`."""

    rows: int
    heads: int
    span: int
    size: int
    dtype: str = "fp32"
    lengths: str = "none"
    threshold: float = 0.5
    kind: str = "random"


CASES = [
    Case(1, 1, 5, 2, kind="golden"),
    Case(1, 1, 5, 2, "fp16", kind="golden"),
    Case(2, 2, 41, 32),
    Case(6, 1, 70, 16, "fp32", "ragged"),
    Case(1, 2, 100, 80, "fp32", "full", 0.05),
    Case(1, 1, 130, 96, "fp32", "none", 0.999),
    Case(2, 1, 33, 64, "fp32", "one"),
    Case(2, 1, 100, 128, "fp32", "none", 0.5, "alike"),
    Case(1, 1, 20, 256, "fp32", "none", 0.0),
    Case(6, 1, 90, 64, "fp16", "ragged", 0.5, "alike"),
    Case(2, 1, 150, 128, "bf16", "none", 0.0),
    # the search takes several chunks: to the end, with finds on the way; and one of several
    Case(1, 2, 300, 16, "fp32", "none", 0.9),
    Case(1, 1, 530, 32, "fp16", "none", 0.45),
    Case(1, 1, 530, 32, "bf16", "none", 0.5, "alike"),
]
LARGE_CASES = [
    Case(4, 8, 2501, 128, "bf16", "none", 0.5, "alike"),
    Case(6, 2, 5001, 128, "bf16", "ragged", 0.5, "alike"),
]


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """Column means against the definition (and the golden numbers); unused slots hold NaN."""
    lengths = lengths_of(case.lengths, case.rows, case.span, device)
    keys = slot_tensor(case.rows, case.heads, case.span, case.size, case.dtype, lengths, 1, device)
    if case.kind == "alike":
        keys = keys * 0.3 + slot_tensor(1, 1, 1, case.size, case.dtype, None, 2, device)
    if case.kind == "golden":
        keys = torch.tensor(GOLDEN_KEYS, dtype=DTYPES[case.dtype], device=device)[None, None]
    found = key_redundancy(keys, case.threshold, lengths=lengths, impl=impl)
    result = {"mean": relative_error(found, reference(keys.float(), case.threshold, lengths=lengths))}
    if case.kind == "golden":
        result["golden"] = relative_error(found[0, 0], torch.tensor(GOLDEN_MEANS))
    return result
