"""Answers that are sets of real numbers: recognised, and compared as sets however they are written."""

from __future__ import annotations

import re

from kvrepro.graders import intervals
from kvrepro.graders.cleaning import split_top
from kvrepro.graders.equations import sides_of
from kvrepro.graders.lexer import UnreadableError
from kvrepro.graders.scalars import literal
from kvrepro.graders.shapes import braced, ordered, squeeze


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
        second = intervals.read_real_set(_right_of_member(answer))
    except UnreadableError:
        parts = ordered(gold)
        if parts is None and first is not None and not _is_set_like(answer):
            return False if literal(answer) is not None else None
        return None if parts is not None and gold[0] == "(" else _unread_set(gold, answer)
    return intervals.same_real_set(first, second)


def _unread_set(gold: str, answer: str) -> bool | None:
    if not _is_set_like(answer) and braced(answer) is None and literal(answer) is not None:
        return False
    raise UnreadableError("a set of another form")


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
