"""Answers that are sets of real numbers: recognised, and compared as sets however they are written."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from kvrepro.graders.cleaning import split_top
from kvrepro.graders.compare import intervals
from kvrepro.graders.compare.equations import sides_of
from kvrepro.graders.compare.evaluation import evaluate
from kvrepro.graders.compare.lexer import UnreadableError
from kvrepro.graders.compare.scalars import literal
from kvrepro.graders.compare.shapes import braced, ordered, squeeze
from kvrepro.graders.words import plain

MAX_INTEGERS = 1000
_INTEGERS = re.compile(
    r"^\\\{\s*[A-Za-z]\s*\\in\s*\\mathbb\s*\{?\s*([ZN])\s*\}?\s*(?:\||:|\\mid(?![A-Za-z])|,)\s*(.+)\\\}$", re.DOTALL
)


def same_set(gold: str, answer: str) -> bool | None:
    """Intervals, inequalities, unions; a pair in round brackets on both sides is left to be compared as a pair.

    None where one of them is no set of reals.
    """
    if not _is_set_like(gold) or (ordered(gold) is not None and ordered(answer) is not None):
        return None
    if gold.startswith("\\{") and (text := _same_builder(gold, answer)) is not None and text:
        return True
    first = None
    try:
        first = intervals.read_real_set(_right_of_member(gold))
        second = intervals.read_real_set(_right_of_member(_united(gold, answer)))
    except UnreadableError:
        parts = ordered(gold)
        if parts is None and first is not None and not _is_set_like(answer):
            return False if literal(answer) is not None else None
        return None if parts is not None and gold[0] == "(" else _unread_set(gold, answer)
    return intervals.same_real_set(first, second)


_NAMED = (
    (re.compile(r"^(?:all |the set of (?:all )?)*non-?negative (?:real numbers?|reals|numbers?|real)$"), "[0,\\infty)"),
    (re.compile(r"^(?:all |the set of (?:all )?)*non-?positive (?:real numbers?|reals|numbers?)$"), "(-\\infty,0]"),
    (re.compile(r"^(?:all |the set of (?:all )?)*positive (?:real numbers?|reals|numbers?)$"), "(0,\\infty)"),
    (re.compile(r"^(?:all |the set of (?:all )?)*negative (?:real numbers?|reals|numbers?)$"), "(-\\infty,0)"),
    (re.compile(r"^(?:all |the set of (?:all )?)*(?:real numbers?|reals)$"), "\\mathbb{R}"),
)
_HALF_LINES = (
    (re.compile(r"\\mathbb\s*\{?R\}?\s*_\s*\{?\s*(?:\\ge|>=)\s*0\s*\}?"), "[0,\\infty)"),
    (re.compile(r"\\mathbb\s*\{?R\}?\s*(?:_\s*\{?\s*>\s*0\s*\}?|[_^]\s*\{?\s*\+\s*\}?)"), "(0,\\infty)"),
)


def named_set(text: str) -> str:
    """Half-lines that have a name, as intervals; any other text as it is."""
    flat = plain(text).casefold()
    for pattern, interval in _NAMED:
        if pattern.match(flat):
            return interval
    for pattern, interval in _HALF_LINES:
        text = pattern.sub(lambda _, known=interval: known, text)
    return text


def integers_of(text: str) -> list[str] | None:
    """Members of `\\{x \\in \\mathbb{Z} : 0 \\le x \\le 2\\}`; None unless it is such a set and a small one."""
    match = _INTEGERS.match(text)
    if match is None:
        return None
    try:
        pieces = intervals.read_real_set(match[2])
        found: set[int] = set()
        for piece in pieces:
            low, high = evaluate(piece.low), evaluate(piece.high)
            if not isinstance(low, Fraction) or not isinstance(high, Fraction) or high - low > MAX_INTEGERS:
                return None
            inside = range(math.ceil(low), math.floor(high) + 1)
            found |= {n for n in inside if (n > low or piece.low_closed) and (n < high or piece.high_closed)}
    except UnreadableError:
        return None
    least = {"Z": min(found, default=0), "N": 0}[match[1]]
    return [str(n) for n in sorted(found) if n >= least]


def _unread_set(gold: str, answer: str) -> bool | None:
    if not _is_set_like(answer) and braced(answer) is None and literal(answer) is not None:
        return False
    raise UnreadableError("a set of another form")


def _united(gold: str, answer: str) -> str:
    """Intervals in a list are a union where the gold is one."""
    parts = split_top(answer, re.compile(r",|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b"))
    is_list = len(parts) > 1 and all(re.match(r"^[(\[].*[)\]]$", part) for part in parts)
    return " \\cup ".join(parts) if is_list and "\\cup" in gold else answer


def _right_of_member(text: str) -> str:
    sides = sides_of(text)
    return (
        sides[-1]
        if len(sides) == 2 and re.fullmatch(r"[A-Za-z\s\\]+(?:cap|cup)?[A-Za-z\s\\]*|\\text\{.*\}", sides[0])
        else text
    )


def _is_set_like(text: str) -> bool:
    if re.match(r"^(?:\\text\{)?\s*(?:all )?real", text):
        return True
    if re.search(r"\\(?:le|ge|ne|in|cup|setminus|mathbb|emptyset)(?![A-Za-z])|[<>]", text):
        return True
    if text.startswith("\\{"):
        return bool(re.search(r"\||:|\\mid", text))
    parts = re.fullmatch(r"[(\[\]](.*)[)\]\[]", text)
    return bool(parts) and len(split_top(parts[1], re.compile("[,;]"))) == 2


def _same_builder(gold: str, answer: str) -> bool | None:
    """Set-builder texts that agree up to the names of their letters."""

    def rename(text: str) -> str:
        text = squeeze(re.sub(r"\\mid(?![A-Za-z])|:", "|", re.sub(r"\\text\{\s*([^{}]*?)\s*\}", r"\1", text)))
        text = text.replace("\\mathbb{", "").replace("{", "").replace("}", "")
        names: dict[str, str] = {}
        return re.sub(r"(?<![A-Za-z\\])[a-z](?![A-Za-z])", lambda m: names.setdefault(m[0], f"v{len(names)}"), text)

    return rename(gold) == rename(answer)
