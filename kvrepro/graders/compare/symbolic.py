"""math-verify's opinion on answers that the value rules cannot read. Runs only inside a worker process."""

from __future__ import annotations

import re
import sys

from kvrepro.graders.cleaning import clean
from kvrepro.graders.words import plain

MAX_LENGTH = 400
# towers of powers and factorials would only burn the time limit, and of a chain `a > b > c` it reads a part
_UNFIT = re.compile(
    r"[a-z]\s*[<>]\s*[a-z]\s*[<>]\s*[a-z]|\^\s*\{?\s*\w+\s*\}?\s*\^|\^\s*\{[^{}]*\^[^{}]*\^|\d{5,}\s*!|!\s*!"
)


class SymbolicNeededError(Exception):
    """Only math-verify can tell, and it is not imported yet: that takes seconds, which must not count as the item's."""


def _looks_mathematical(text: str) -> bool:
    if len(text) > MAX_LENGTH or "'" in text or _UNFIT.search(text):
        return False
    return not re.search(r"[A-Za-z]{4,}", re.sub(r"\\[A-Za-z]+", " ", plain(text)))


def same_by_math_verify(gold: str, answer: str) -> bool | None:
    """Verdict of math-verify on two answers; None where it cannot parse one of them, or they look like no mathematics.

    Deviates: floats are compared to 15 places and not to 6, since 6 let .0000671 pass for .0000672.

    Raises:
        SymbolicNeededError: it is needed and not imported yet.
    """
    gold, answer = clean(gold), clean(answer)
    if not _looks_mathematical(gold) or not _looks_mathematical(answer):
        return None
    if "math_verify" not in sys.modules:
        raise SymbolicNeededError
    # seconds, and sympy with it: a worker that grades plain numbers loads neither
    import math_verify

    config = [math_verify.LatexExtractionConfig()]
    first, second = (
        math_verify.parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (gold, answer)
    )
    if not first or not second:
        return None
    return bool(math_verify.verify(first, second, float_rounding=15, numeric_precision=30, timeout_seconds=None))
