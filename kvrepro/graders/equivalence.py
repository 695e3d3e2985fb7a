"""Do two replies give the same answer? For votes over answers, which never look at the gold."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from kvrepro.errors import check_known
from kvrepro.graders.isolation import score_one
from kvrepro.graders.score import KINDS


def equivalence(kind: str) -> Callable[[str, str], bool]:
    """Equality of extracted answers under the strict grader's rules, for `metrics.maj_at`.

    Either answer may play the gold, so that the order of two answers does not matter. Comparisons run in a worker; one
    that fails there makes the answers different. Verdicts are remembered.
    """
    check_known("answer kind", KINDS, kind)

    def as_gold(gold: str, answer: str) -> bool:
        return score_one({"vote": answer, "gold": gold, "kind": kind, "grader": "strict"}).correct

    @cache
    def equivalent(first: str, second: str) -> bool:
        return "".join(first.split()) == "".join(second.split()) or as_gold(first, second) or as_gold(second, first)

    return equivalent
