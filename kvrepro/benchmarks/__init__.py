"""Benchmarks by name: the generated ones that ship with the package and the real ones."""

from __future__ import annotations

import hashlib

from ..errors import UnknownNameError
from ..paths import data_dir
from .generated import GENERATED
from .table import ANSWER_KINDS, Benchmark, Problem

__all__ = ["ANSWER_KINDS", "Benchmark", "Problem", "benchmark_entry", "benchmark_names", "load_problems", "rows_hash"]


def benchmark_names() -> list[str]:
    """Every known benchmark, generated ones first."""
    return [*GENERATED, *_real()]


def benchmark_entry(name: str) -> Benchmark:
    """Look a benchmark up.

    Raises:
        UnknownNameError: no such benchmark; lists the known ones.
    """
    entry = GENERATED.get(name) or _real().get(name)
    if entry is None:
        raise UnknownNameError("benchmark", name, benchmark_names())
    return entry


def load_problems(name: str, n_problems: int | None = None) -> list[Problem]:
    """The first `n_problems` problems of a benchmark, or all of them."""
    entry = benchmark_entry(name)
    if name in GENERATED:
        problems = GENERATED[name].load()
    else:
        from .real import load_real

        problems = load_real(entry.name, data_dir=data_dir())
    return problems[:n_problems]


def rows_hash(problems: list[Problem]) -> str:
    """SHA-256 over ids, questions and golds, in order; part of a cell's manifest."""
    digest = hashlib.sha256()
    for p in problems:
        digest.update("\x1f".join((p.problem_id, p.question, p.gold, "")).encode())
    return digest.hexdigest()


def _real() -> dict[str, Benchmark]:
    from .real import REAL_BENCHMARKS

    return REAL_BENCHMARKS
