"""How a case is run and judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# largest difference from the float32 reference, relative to the largest value of the reference
TOLERANCES = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1e-2}


@dataclass(frozen=True)
class Result:
    """One case: the relative error of each output, against one limit."""

    stem: str
    case: str
    errors: dict[str, float] = field(default_factory=dict)
    limit: float = 0.0
    failure: str = ""

    @property
    def ok(self) -> bool:
        """True when nothing was raised and every error is a number within the limit."""
        return not self.failure and all(e <= self.limit for e in self.errors.values())


def case_name(case: Any) -> str:
    """Field values of a case, shortened: `rows3-span41-...`."""
    return "-".join(f"{k}{v}" for k, v in vars(case).items())


def run_cases(module: ModuleType, device: str, impl: str, cases: Sequence[Any]) -> list[Result]:
    """Run every case; a case that raises is a failed result, so that one broken kernel does not hide the others."""
    results = []
    for case in cases:
        limit = TOLERANCES[getattr(case, "dtype", "fp32")]
        try:
            with poisoned_storage():
                errors = module.errors(case, device, impl)
            results.append(Result(module.STEM, case_name(case), errors, limit))
        except Exception as error:
            results.append(Result(module.STEM, case_name(case), {}, limit, f"{type(error).__name__}: {error}"[:2000]))
    return results


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference over the largest absolute value expected; inf where a value is not finite.

    Raises:
        ValueError: shapes differ.
    """
    if found.shape != expected.shape:
        raise ValueError(f"the result has shape {tuple(found.shape)}, expected {tuple(expected.shape)}")
    if not expected.numel():
        return 0.0
    found, expected = found.double(), expected.double().to(found.device)
    if not found.isfinite().all():
        return float("inf")
    scale = float(expected.abs().max())
    return float((found - expected).abs().max()) / (scale if scale > 0 else 1.0)


def exact(found: Tensor, expected: Tensor) -> float:
    """0 if all values agree, else inf; NaN equals NaN."""
    same = (found == expected) | (found.isnan() & expected.isnan())
    return 0.0 if bool(same.all()) else float("inf")


@contextmanager
def poisoned_storage() -> Iterator[None]:
    """What library code gets from `torch.empty` is full of NaN, so a value that a kernel forgets to write shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(t: Tensor) -> Tensor:
        return t.fill_(float("nan") if t.is_floating_point() else -7)

    torch.empty = lambda *a, **k: poison(empty(*a, **k))
    torch.empty_like = lambda *a, **k: poison(empty_like(*a, **k))
    try:
        yield
    finally:
        torch.empty, torch.empty_like = empty, empty_like


def lengths_of(kind: str, rows: int, span: int, device: str) -> Tensor | None:
    """`none`, `full`, `zero`, `one`, or `ragged`: 0, 1, full and then values in between."""
    if kind == "none":
        return None
    if kind == "ragged":
        values = [0, 1, span, span // 2, max(0, span - 1), span // 3]
        values = (values * (rows // len(values) + 1))[:rows] if rows > 1 else [span // 2]
    else:
        values = [{"full": span, "zero": 0, "one": 1}[kind]] * rows
    return torch.tensor(values, dtype=torch.int32, device=device)


def slot_tensor(
    rows: int, heads: int, span: int, size: int, dtype: str, lengths: Tensor | None, seed: int, device: str
) -> Tensor:
    """`[B, H, S, D]` normal values inside a larger storage (so strides are not dense), NaN in every unused slot."""
    storage = torch.full((rows, heads, span + 3, size), float("nan"), dtype=DTYPES[dtype], device=device)
    storage[:, :, :span] = normal(rows, heads, span, size, dtype=dtype, seed=seed, device=device)
    if lengths is not None:
        unused = torch.arange(span + 3, device=device) >= lengths[:, None]
        storage.masked_fill_(unused[:, None, :, None], float("nan"))
    return storage[:, :, :span]


def normal(*shape: int, dtype: str, seed: int, device: str) -> Tensor:
    """Normal values, drawn on the device: one core of a CPU would take longer than all kernels."""
    return torch.randn(*shape, generator=torch.Generator(device).manual_seed(seed), device=device).to(DTYPES[dtype])
