"""Cases of `decode_attention`."""

from __future__ import annotations

from dataclasses import dataclass

from ..decode_attention import STEM, decode_attention
from ..reference.attention import decode_attention as reference
from .common import lengths_of, normal, relative_error, slot_tensor

__all__ = ["CASES", "LARGE_CASES", "STEM", "Case", "errors"]


@dataclass(frozen=True)
class Case:
    """Shapes, dtype, kind of lengths and side output."""

    rows: int
    span: int
    heads: int
    group: int
    size: int
    dtype: str = "fp32"
    lengths: str = "none"
    mass: str | None = None


CASES = [
    Case(2, 64, 2, 2, 64, "fp32", "none", None),
    Case(3, 41, 2, 3, 96, "fp32", "ragged", "group_mean"),
    Case(4, 300, 1, 7, 80, "fp32", "ragged", "group_max"),
    Case(1, 1, 1, 1, 32, "fp32", "none", "all"),
    Case(3, 7, 3, 4, 33, "fp32", "ragged", "all"),
    Case(2, 130, 2, 1, 128, "fp32", "one", "heads_mean"),
    Case(2, 5, 1, 2, 64, "fp32", "zero", "heads_mean"),
    Case(2, 129, 2, 17, 32, "fp32", "full", "group_mean"),
    Case(1, 33, 1, 4, 256, "fp32", "none", None),
    Case(4, 123, 2, 4, 128, "fp16", "ragged", "group_mean"),
    Case(2, 257, 1, 7, 96, "fp16", "full", "heads_mean"),
    Case(4, 123, 2, 4, 128, "bf16", "ragged", "group_max"),
    Case(3, 200, 1, 5, 80, "bf16", "ragged", "all"),
]
LARGE_CASES = [
    Case(20, 4096, 8, 4, 128, "bf16", "none", None),
    Case(20, 5001, 4, 7, 128, "bf16", "ragged", "heads_mean"),
    Case(1, 16384, 8, 4, 128, "fp16", "full", "group_mean"),
    Case(7, 2501, 8, 4, 128, "fp32", "ragged", "group_max"),
    Case(128, 2501, 4, 7, 128, "bf16", "ragged", "all"),
]


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """Relative error of the output and of the mass; unused slots hold NaN."""
    lengths = lengths_of(case.lengths, case.rows, case.span, device)
    query = normal(case.rows, case.heads * case.group, case.size, dtype=case.dtype, seed=0, device=device)
    keys, values = (
        slot_tensor(case.rows, case.heads, case.span, case.size, case.dtype, lengths, seed, device) for seed in (1, 2)
    )
    scaling = case.size**-0.5
    found, found_mass = decode_attention(query, keys, values, lengths, scaling, mass=case.mass, impl=impl)
    wanted, wanted_mass = reference(query.float(), keys.float(), values.float(), lengths, scaling, mass=case.mass)
    result = {"out": relative_error(found, wanted)}
    if case.mass:
        result["mass"] = relative_error(found_mass, wanted_mass)
    return result
