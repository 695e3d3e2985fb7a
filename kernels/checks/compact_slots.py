"""Cases of `compact_slots`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..compact_slots import STEM, compact_slots
from .common import exact

__all__ = ["CASES", "LARGE_CASES", "STEM", "Case", "errors"]


@dataclass(frozen=True)
class Case:
    """Shapes; `plan` is `shared`, `layer` or `head`; `keep` says which slots stay."""

    parts: int
    layers: int
    rows: int
    heads: int
    span: int
    size: int
    kept: int
    plan: str = "shared"
    keep: str = "random"
    values: str = "fp32"


CASES = [
    Case(2, 2, 3, 2, 41, 32, 17),
    Case(2, 2, 3, 2, 300, 64, 170, "layer"),
    Case(2, 3, 4, 2, 200, 80, 150, "head"),
    Case(2, 1, 2, 1, 257, 128, 256, "shared", "shift"),
    Case(2, 1, 2, 2, 130, 96, 130, "head", "all"),
    Case(2, 1, 2, 1, 50, 33, 1, "shared", "last"),
    Case(2, 1, 2, 1, 50, 33, 0, "shared", "none"),
    Case(1, 1, 3, 1, 1500, 1, 1300, "shared", "random", "int64"),
    Case(2, 2, 3, 2, 90, 64, 60, "head", "random", "bf16"),
]
LARGE_CASES = [
    Case(2, 8, 20, 8, 2501, 128, 2150, "shared", "random", "bf16"),
    Case(2, 4, 20, 8, 5001, 128, 2900, "head", "random", "bf16"),
    Case(2, 28, 3, 4, 6001, 128, 6000, "shared", "shift", "bf16"),
    Case(1, 1, 20, 1, 5001, 1, 2900, "shared", "random", "int64"),
]
VALUES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int64": torch.int64}


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """Kept slots must carry exactly their values; rows that do not evict must not change at all."""
    g = torch.Generator().manual_seed(0)
    shape = (case.parts, case.layers, case.rows, case.heads, case.span, case.size)
    storage = torch.randint(-1000, 1000, shape, dtype=torch.int16, device=device).to(VALUES[case.values])
    # all rows but the first, in an order of its own
    rows = torch.arange(1, case.rows).flip(0)
    plan_layers = case.layers if case.plan != "shared" else 1
    plan_heads = case.heads if case.plan == "head" else 1
    slots = torch.empty(plan_layers, len(rows), plan_heads, case.kept, dtype=torch.int64)
    for place in slots.flatten(0, 2):
        if case.keep == "random":
            place[:] = torch.randperm(case.span, generator=g)[: case.kept].sort().values
        else:
            # shift: drop slot 0, so that each block overlaps the next; last: one slot moves all the way
            place[:] = torch.arange(case.kept) + {"all": 0, "none": 0, "shift": 1, "last": case.span - 1}[case.keep]
    expected = storage.clone()
    index = slots.expand(case.layers, -1, case.heads, -1)[None, ..., None].to(device)
    picked = storage[:, :, rows.to(device)].gather(4, index.expand(case.parts, -1, -1, -1, -1, case.size))
    expected[:, :, rows.to(device), :, : case.kept] = picked
    compact_slots(storage, rows.to(device), slots.to(device), impl=impl)
    return {
        "kept": exact(storage[..., : case.kept, :], expected[..., : case.kept, :]),
        "others": exact(storage[:, :, 0], expected[:, :, 0]),
        "behind": exact(storage[..., case.kept :, :], expected[..., case.kept :, :]),
    }
