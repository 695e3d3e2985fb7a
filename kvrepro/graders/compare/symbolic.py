"""math-verify's opinion on answers that the value rules cannot read. Runs only inside a worker process."""

from __future__ import annotations

import re
from typing import Any

from kvrepro.errors import KvreproError
from kvrepro.graders.cleaning import clean
from kvrepro.graders.words import plain

MAX_LENGTH = 400


def load() -> Any:
    """Import math-verify (seconds); a clear error where it is missing."""
    try:
        import math_verify
    except ImportError as error:
        raise KvreproError(
            "this answer needs math-verify, which is not installed: pip install 'math-verify>=0.8', "
            "or grade only integer and choice benchmarks"
        ) from error
    return math_verify


def looks_mathematical(text: str) -> bool:
    """Worth parsing: short, no prose, no tower of powers that would only burn the time limit."""
    if (
        len(text) > MAX_LENGTH
        or "'" in text
        or re.search(r"\^\s*\{?\s*\w+\s*\}?\s*\^|\^\s*\{[^{}]*\^[^{}]*\^|\d{5,}\s*!|!\s*!", text)
    ):
        return False
    return not re.search(r"[A-Za-z]{4,}", re.sub(r"\\[A-Za-z]+", " ", plain(text)))


def same_by_math_verify(gold: str, answer: str) -> bool | None:
    """Verdict of math-verify on two answers; None where it cannot parse one of them.

    Deviates: floats are compared to 15 places and not to 6, since 6 let .0000671 pass for .0000672.
    """
    library = load()
    gold, answer = clean(gold), clean(answer)
    if not looks_mathematical(gold) or not looks_mathematical(answer):
        return None
    config = [library.LatexExtractionConfig()]
    parsed = [
        library.parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None) for text in (gold, answer)
    ]
    if not parsed[0] or not parsed[1]:
        return None
    return bool(library.verify(parsed[0], parsed[1], float_rounding=15, numeric_precision=30, timeout_seconds=None))
