"""Cases of `window_scores`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..reference.scores import window_scores as reference
from ..window_scores import STEM, window_scores
from .common import lengths_of, normal, relative_error, slot_tensor

__all__ = ["CASES", "LARGE_CASES", "STEM", "Case", "errors"]


@dataclass(frozen=True)
class Case:
    """Shapes, dtype, reduction, lengths; `partial` leaves some queries of each row invalid (and NaN)."""

    rows: int
    span: int
    heads: int
    group: int
    window: int
    size: int
    dtype: str = "fp32"
    reduce: str = "max_logits"
    lengths: str = "none"
    partial: bool = False


CASES = [
    Case(2, 64, 2, 2, 8, 64),
    Case(3, 41, 2, 3, 5, 96, "fp32", "mean", "ragged"),
    Case(4, 100, 1, 7, 8, 80, "fp32", "max", "ragged", True),
    Case(4, 70, 1, 2, 33, 32, "fp32", "max_logits", "ragged", True),
    Case(1, 600, 1, 2, 8, 32, "fp32", "mean"),
    Case(2, 1, 1, 1, 1, 16, "fp32", "max"),
    Case(1, 20, 1, 1, 3, 256, "fp32", "max_logits", "one"),
    Case(3, 123, 1, 4, 8, 128, "fp16", "max_logits", "ragged", True),
    Case(3, 90, 1, 3, 8, 64, "bf16", "mean", "ragged"),
    Case(2, 530, 1, 2, 16, 128, "bf16", "max", "full"),
]
LARGE_CASES = [
    Case(20, 5001, 8, 4, 8, 128, "bf16", "max_logits", "ragged", True),
    Case(4, 5001, 4, 7, 32, 128, "bf16", "mean", "ragged"),
    Case(4, 2501, 4, 7, 64, 128, "fp16", "max", "full"),
]


def errors(case: Case, device: str, impl: str) -> dict[str, float]:
    """Scores against the definition; unused slots and invalid queries hold NaN."""
    lengths = lengths_of(case.lengths, case.rows, case.span, device)
    q_heads = case.heads * case.group
    queries = normal(case.rows, q_heads, case.window, case.size, dtype=case.dtype, seed=0, device=device)
    keys = slot_tensor(case.rows, case.heads, case.span, case.size, case.dtype, lengths, 1, device)
    valid = None
    if case.partial:
        # row r has its r last queries, so the first row has none
        count = torch.arange(case.rows, device=device) % (case.window + 1)
        valid = torch.arange(case.window, device=device) >= case.window - count[:, None]
        queries = queries.masked_fill(~valid[:, None, :, None], float("nan"))
    call = dict(group=case.reduce, lengths=lengths)
    found = window_scores(queries, keys, valid, case.size**-0.5, impl=impl, **call)
    wanted = reference(queries.float(), keys.float(), valid, case.size**-0.5, **call)
    return {"scores": relative_error(found, wanted)}
