"""Problems that two benchmarks share: 64 rows of gk23en are AMC 2023, and most of amc23 is among them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .problem import Problem

# Source: a finding about the published data sets, checked by tests/benchmarks/test_real_benchmarks.py
GK23EN_AMC_ROWS = range(296, 360)
# of the shorter text's word triples: copied, the last sentence reworded
_LEAST_COPIED = 0.55
# of the shorter text's words, where the numbers are the same: told again with other names and sentences
_LEAST_RETOLD = 0.5


def same_problems(sets: Mapping[str, Sequence[Problem]]) -> dict[tuple[str, str], str]:
    """(set, problem id) -> key for the problems that gk23en and amc23 share, for `scores.statistics.mean_over_sets`.

    Two passes: by word triples, because the compilers reworded the last sentence of several problems (`m/n, find m+n`),
    then among the rest by equal numbers and shared words, because a few were told again altogether. Golds are not
    looked at: the same problem asks for 1/6 in one set and for 7 in the other.
    """
    if not {"gk23en", "amc23"} <= set(sets):
        return {}
    rows = list(sets["gk23en"])[GK23EN_AMC_ROWS.start : GK23EN_AMC_ROWS.stop]
    pairs: dict[str, str] = {}
    for likeness, least in ((_copied, _LEAST_COPIED), (_retold, _LEAST_RETOLD)):
        for problem in (p for p in sets["amc23"] if p.problem_id not in pairs):
            free = [row for row in rows if row.problem_id not in pairs.values()]
            scored = [(likeness(problem.question, row.question), row.problem_id) for row in free]
            score, name = max(scored, default=(0.0, ""))
            if score >= least:
                pairs[problem.problem_id] = name
    own = {("amc23", problem): f"amc2023:{problem}" for problem in pairs}
    return own | {("gk23en", row): f"amc2023:{problem}" for problem, row in pairs.items()}


def _copied(first: str, second: str) -> float:
    words = (re.findall(r"[a-z]+|\d+", _prose(text)) for text in (first, second))
    return _share(*({*zip(text, text[1:], text[2:], strict=False)} for text in words))


def _retold(first: str, second: str) -> float:
    numbers, others = (set(re.findall(r"\d+", text)) for text in (first, second))
    words = (set(re.findall(r"[a-z]{3,}", _prose(text))) for text in (first, second))
    return _share(*words) if numbers == others != set() else 0.0


def _share(first: set, second: set) -> float:
    return len(first & second) / max(1, min(len(first), len(second)))


def _prose(text: str) -> str:
    return re.sub(r"\\[a-zA-Z]+", " ", text).lower()
