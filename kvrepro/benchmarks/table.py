"""Benchmarks by name: the generated ones that ship with the package and the real ones."""

from __future__ import annotations

import hashlib
from typing import Any

from ..errors import KvreproError, UnknownNameError, check_known
from ..paths import data_dir
from .generated import GENERATED
from .problem import Benchmark, Problem
from .prompts import PROMPT_STYLES, rows_hash
from .real import load_with_provenance
from .sources import REAL_BENCHMARKS


def benchmark_names() -> list[str]:
    """Every known benchmark, generated ones first."""
    return [*GENERATED, *REAL_BENCHMARKS]


def benchmark_entry(name: str) -> Benchmark:
    """Look a benchmark up; `UnknownNameError` lists the known ones."""
    entry = GENERATED.get(name) or REAL_BENCHMARKS.get(name)
    if entry is None:
        raise UnknownNameError("benchmark", name, benchmark_names())
    return entry


def is_local(name: str) -> bool:
    """Do the rows lie on this machine (shipped, or in the folder for offline use)?"""
    folder = data_dir()
    return name in GENERATED or (folder is not None and (folder / f"{name}.jsonl").is_file())


def load_problems(name: str, n_problems: int | None = None, prompt_style: str = "dynts") -> list[Problem]:
    """The first `n_problems` problems of a benchmark, or all of them."""
    return load_with_origin(name, n_problems, prompt_style)[0]


def load_with_origin(
    name: str, n_problems: int | None = None, prompt_style: str = "dynts"
) -> tuple[list[Problem], dict[str, Any]]:
    """Problems, and where their rows came from (for the manifest).

    Raises `KvreproError` for an unknown benchmark, rows that cannot be had or are not those expected, and a prompt
    style for a generated benchmark, whose questions are their own language.
    """
    check_prompt_style(name, prompt_style)
    entry = benchmark_entry(name)
    if name in GENERATED:
        problems = GENERATED[name].load()
        origin = {"benchmark": name, "source": entry.source, "file_sha256": entry.sha256}
    else:
        problems, origin = load_with_provenance(name, data_dir=data_dir(), prompt_style=prompt_style)
    return problems[:n_problems], origin


def check_prompt_style(name: str, prompt_style: str) -> None:
    """Raise unless the benchmark can be asked in this style."""
    check_known("prompt_style", PROMPT_STYLES, prompt_style)
    if name in GENERATED and prompt_style != PROMPT_STYLES[0]:
        raise KvreproError(
            f"prompt_style={prompt_style!r}: {name} is written in the tiny models' own language and is asked bare; "
            f"use {PROMPT_STYLES[0]!r}"
        )


def rows_identity(name: str) -> str:
    """What stands for a benchmark's rows in a cell's hash.

    The rows' hash where they ship with the package; the name for published rows, which the table pins to a commit or to
    a reference file; the name and the file's hash for rows on this machine that are not the reference.
    """
    if name in GENERATED:
        return rows_hash(load_problems(name))
    if not is_local(name):
        return name
    digest = hashlib.sha256((data_dir() / f"{name}.jsonl").read_bytes()).hexdigest()
    return name if digest == REAL_BENCHMARKS[name].reference_sha256 else f"{name}:{digest}"
