"""Cases of `append_kv`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..append_kv import STEM, append_kv
from ..reference.attention import append_kv as reference
from .common import DTYPES, exact, normal, relative_error, slot_tensor

__all__ = ["CASES", "LARGE_CASES", "STEM", "Case", "errors"]


@dataclass(frozen=True)
class Case:
    """Shapes and dtype; `rotate` off leaves queries and keys as they are."""

    rows: int
    span: int
    heads: int
    group: int
    size: int
    dtype: str = "fp32"
    rotate: bool = True


CASES = [
    Case(3, 9, 2, 3, 64),
    Case(5, 7, 1, 7, 80),
    Case(4, 5, 2, 2, 96, "fp16"),
    Case(4, 6, 2, 4, 128, "bf16"),
    Case(2, 3, 1, 1, 34, "fp32", False),
    Case(1, 1, 1, 2, 256),
]
LARGE_CASES = [Case(20, 5001, 8, 4, 128, "bf16"), Case(128, 2501, 4, 7, 128, "bf16")]


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """Queries, the written slots, and that nothing else changed; the storage is full of NaN before."""
    qkv = normal(case.rows, case.heads * (case.group + 2), case.size, dtype=case.dtype, seed=0, device=device)
    # the first row writes slot 0, the last writes the last slot, rows between are off or out of range
    slots = torch.full((case.rows,), -1, dtype=torch.int64)
    slots[0], slots[-1] = 0, case.span - 1
    if case.rows > 2:
        slots[1] = case.span
    positions = torch.arange(case.rows)[:, None] * 1000 + 3
    angles = positions * 10000.0 ** -(torch.arange(0, case.size, 2) / case.size)
    cos, sin = (torch.cat([f(angles)] * 2, dim=-1).to(DTYPES[case.dtype]).to(device) for f in (torch.cos, torch.sin))
    empty = torch.zeros(case.rows + 1, dtype=torch.int32)
    made = (case.rows + 1, case.heads, case.span, case.size, case.dtype, empty, 0, device)
    found, wanted = [slot_tensor(*made) for _ in range(2)], [slot_tensor(*made).float() for _ in range(2)]
    if not case.rotate:
        cos = sin = None
    query = append_kv(qkv, cos, sin, *found, slots.to(device), impl=impl)
    wide = (None, None) if cos is None else (cos.float(), sin.float())
    expected = reference(qkv.float(), *wide, *wanted, slots.to(device))
    result = {"query": relative_error(query, expected)}
    for name, f, w in zip(("keys", "values"), found, wanted, strict=True):
        result[name] = relative_error(f.nan_to_num(0), w.nan_to_num(0))
        result[f"{name}_places"] = exact(f.isnan(), w.isnan())
    return result
