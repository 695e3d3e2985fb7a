"""Cases of `decode_attention`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..decode_attention import STEM, decode_attention, plan_chunks, smallest_unit
from ..reference.attention import decode_attention as reference
from .common import exact, lengths_of, normal, relative_error, slot_tensor

__all__ = ["CASES", "LARGE_CASES", "STEM", "Case", "errors"]


@dataclass(frozen=True)
class Case:
    """Shapes, dtype, lengths (a kind, or numbers that repeat over the rows), side output, work units per KV head."""

    rows: int
    span: int
    heads: int
    group: int
    size: int
    dtype: str = "fp32"
    lengths: str = "none"
    mass: str | None = None
    units: int | None = None


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
    # one long row among short ones, and every row one unit for want of more
    Case(5, 900, 2, 3, 32, "fp32", "0 1 900 130 -1", "all"),
    Case(5, 900, 2, 3, 32, "fp32", "0 1 900 130 5", "group_mean", 5),
    Case(5, 900, 1, 4, 64, "bf16", "0 1 900 130 5", None, 8),
    # one row in many units, many rows in few, all slots in use
    Case(1, 1300, 1, 32, 32, "fp32", "none", "group_max"),
    Case(1, 1300, 1, 1, 256, "fp16", "1299", None),
    Case(70, 260, 1, 1, 16, "fp32", "0 7 129 260", None),
    Case(3, 700, 2, 2, 32, "fp32", "none", "heads_mean", 7),
]
LARGE_CASES = [
    Case(20, 4096, 8, 4, 128, "bf16", "none", None),
    Case(20, 5001, 4, 7, 128, "bf16", "ragged", "heads_mean"),
    Case(1, 16384, 8, 4, 128, "fp16", "full", "group_mean"),
    Case(7, 2501, 8, 4, 128, "fp32", "ragged", "group_max"),
    Case(128, 2501, 4, 7, 128, "bf16", "ragged", "all"),
    Case(20, 16384, 8, 4, 128, "bf16", "0 1 5000 16384 300", "group_mean"),
    Case(512, 1024, 8, 4, 128, "bf16", "0 1024 17 500", None),
    Case(20, 5001, 8, 4, 128, "bf16", "0 1 5001 2500", None, 20),
]


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """Relative error of the output and of the mass; unused slots hold NaN. The kernel's plan is the one expected, a
    second launch with it gives the same bits, and its counters are 0 in the end."""
    if case.lengths[-1].isdigit():
        some = [int(n) for n in case.lengths.split()]
        lengths = torch.tensor([some[i % len(some)] for i in range(case.rows)], device=device)
    else:
        lengths = lengths_of(case.lengths, case.rows, case.span, device)
    query = normal(case.rows, case.heads * case.group, case.size, dtype=case.dtype, seed=0, device=device)
    keys, values = (
        slot_tensor(case.rows, case.heads, case.span, case.size, case.dtype, lengths, seed, device) for seed in (1, 2)
    )
    scaling = case.size**-0.5
    plan = plan_chunks(keys, lengths, units=case.units, impl=impl)
    (found, found_mass), (again, _) = (
        decode_attention(query, keys, values, lengths, scaling, mass=case.mass, plan=plan, impl=impl) for _ in range(2)
    )
    wanted, wanted_mass = reference(query.float(), keys.float(), values.float(), lengths, scaling, mass=case.mass)
    result = {"out": relative_error(found, wanted), "again": exact(again, found)}
    if case.mass:
        result["mass"] = relative_error(found_mass, wanted_mass)
    if plan is not None:
        starts, row_of = planned(lengths, case.rows, case.span, len(plan.row_of))
        result["plan"] = max(exact(plan.starts.cpu(), starts), exact(plan.row_of.cpu(), row_of))
        result["counters"] = exact(plan.counters, torch.zeros_like(plan.counters))
    return result


def planned(lengths: Tensor | None, rows: int, span: int, units: int) -> tuple[Tensor, Tensor]:
    """`starts` and `row_of` of a plan, by trying one chunk after the other."""
    held = [span] * rows if lengths is None else [min(n, span) for n in lengths.tolist()]
    smallest = chunk = smallest_unit(span)
    while sum(counts := [max(1, -(-n // chunk)) for n in held]) > units:
        chunk += smallest
    counts = torch.tensor(counts)
    row_of = torch.full((units,), -1)
    row_of[: counts.sum()] = torch.arange(rows).repeat_interleave(counts)
    return torch.cat([torch.zeros(1, dtype=counts.dtype), counts.cumsum(0)]), row_of
