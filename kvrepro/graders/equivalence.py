"""Do two replies give the same answer? For votes over answers, which never look at the gold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import cache

from kvrepro.errors import UnknownNameError
from kvrepro.graders.choice import read_choice
from kvrepro.graders.extraction import Extraction
from kvrepro.graders.score import KINDS


def equivalence(kind: str) -> Callable[[str, str], bool]:
    """Equality of extracted answers under the strict grader's rules, for `metrics.maj_at`.

    Either answer may play the gold, so that the order of two answers does not matter. Comparisons run in a worker; one
    that fails there makes the answers different. Verdicts are remembered.
    """
    if kind not in KINDS:
        raise UnknownNameError("answer kind", kind, KINDS)

    @cache
    def equivalent(first: str, second: str) -> bool:
        if "".join(first.split()) == "".join(second.split()):
            return True
        if kind == "choice":
            letter = read_choice(first)
            return letter is not None and letter == read_choice(second)
        return _as_gold(first, second, kind) or _as_gold(second, first, kind)

    return equivalent


def _as_gold(gold: str, answer: str, kind: str) -> bool:
    from kvrepro.graders.pool import compare_one

    extraction = asdict(Extraction("ok", answer, "vote"))
    return compare_one({"extraction": extraction, "gold": gold, "kind": kind, "grader": "strict"}).correct
