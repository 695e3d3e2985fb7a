"""Problems that two benchmarks share: 64 rows of gk23en are AMC 2023, and most of amc23 is among them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .table import Problem

# Source: the row numbers are a finding about the published data sets, checked by tests/test_real_benchmarks.py
GK23EN_AMC_ROWS = range(296, 360)
_LEAST_OVERLAP = 0.55


def _shingles(text: str) -> set[str]:
    words = re.findall(r"[a-z]+|\d+", re.sub(r"\\[a-zA-Z]+", " ", text).lower())
    return {" ".join(words[i : i + 3]) for i in range(len(words) - 2)}


def same_problems(sets: Mapping[str, Sequence[Problem]]) -> dict[tuple[str, str], str]:
    """(set, problem id) -> key for the problems that gk23en and amc23 share; what `statistics.mean_over_sets` takes.

    Texts are compared by word triples, because the compilers reworded the last sentence of several problems.
    """
    if not {"gk23en", "amc23"} <= set(sets):
        return {}
    candidates = {
        p.problem_id: _shingles(p.question) for p in list(sets["gk23en"])[GK23EN_AMC_ROWS.start : GK23EN_AMC_ROWS.stop]
    }
    shared: dict[tuple[str, str], str] = {}
    for problem in sets["amc23"]:
        own = _shingles(problem.question)
        scored = [(len(own & other) / max(1, min(len(own), len(other))), name) for name, other in candidates.items()]
        score, name = max(scored, default=(0.0, ""))
        if score >= _LEAST_OVERLAP and ("gk23en", name) not in shared:
            shared["gk23en", name] = shared["amc23", problem.problem_id] = f"amc2023:{problem.problem_id}"
    return shared
