"""Quantities said in two or more units: `3 hours 24 minutes`, `3 dollars and 50 cents`, `5'11"`, `12^\\circ 30'`."""

from __future__ import annotations

import re
from fractions import Fraction

from kvrepro.graders.compare.lexer import UnreadableError
from kvrepro.graders.compare.scalars import Reading, readings, same_reading
from kvrepro.graders.compare.units import DEGREE, Unit, named, read_unit
from kvrepro.graders.words import plain

_MARK = r"\^\s*\{?\s*\\circ\s*\}?|\\circ|'{1,2}|\""
# a number starts at its first digit: trying each digit of a long one would take the square of its length
_PIECE = rf"(?:\\?\$\s*)?(?<!\d)\d+(?:,\d{{3}})*(?:\.\d+)?\s*(?:{_MARK}|[A-Za-z]{{1,12}}\.?(?![A-Za-z]))"
_BETWEEN = r"\s*(?:,\s*and\b|,|\band\b|&|\\)?\s*"
_COMPOUND = re.compile(rf"{_PIECE}(?:{_BETWEEN}{_PIECE})+")
_PARTS = re.compile(rf"(\\?\$)?\s*(\d+(?:,\d{{3}})*(?:\.\d+)?)\s*({_MARK}|[A-Za-z]*)")
# minutes and seconds of arc, behind degrees; feet and inches otherwise
_ARC = {"'": Fraction(1, 60), '"': Fraction(1, 3600), "''": Fraction(1, 3600)}
_FEET = {"'": "ft", '"': "in", "''": "in"}


def find_quantity(text: str) -> str | None:
    """The last quantity in several units inside a text."""
    text = re.sub(r"\\\$\s*(?=\d+(?:\.\d+)?\s+and\s+\d+\s*cents)|\$\s*(?=\d+\s+and\s+\d+\s*cents)", r"\\$", text)
    found = [match[0] for match in _COMPOUND.finditer(text) if read_quantity(match[0])]
    return found[-1] if found else None


def read_quantity(text: str) -> list[Reading]:
    """The quantity in each of its units; empty unless its parts are of one dimension and get smaller."""
    marks = text[len(text.rstrip("'\"")) :]
    text = re.sub(r"(\\?\$\s*\d+)(?=\s*(?:and|,)\s*\d+\s*cents?)", r"\1 dollars", plain(text)).replace("\\$", "$")
    # `plain` takes quotation marks off
    text += marks
    text = re.sub(r"\s*\\(?=\s|$)", " ", text)
    sign, text = (-1, text[1:].lstrip()) if text.startswith("-") else (1, text)
    if not _COMPOUND.fullmatch(text.strip()):
        return []
    units: list[Unit] = []
    total = Fraction(0)
    is_arc = "\\circ" in text
    for _, digits, spelled in _PARTS.findall(text):
        unit = _unit(spelled.strip(), is_arc, units)
        if unit is None or (units and (unit.dimensions != units[0].dimensions or unit.factor >= units[-1].factor)):
            return []
        units.append(unit)
        total += Fraction(digits.replace(",", "")) * unit.factor
    return [Reading(("number", sign * total / unit.factor), unit) for unit in units]


def _unit(spelled: str, is_arc: bool, before: list[Unit]) -> Unit | None:
    if "\\circ" in spelled:
        return DEGREE
    if spelled in _ARC:
        return Unit(DEGREE.dimensions, _ARC[spelled]) if is_arc else named(_FEET[spelled])
    if spelled == "m" and before and before[0].dimensions == named("h").dimensions:
        # 3h24m
        spelled = "min"
    unit = read_unit(spelled) if spelled else None
    return unit if unit is not None and len(unit.dimensions) == 1 else None


def same_quantity(gold: str, answer: str, is_integer: bool) -> bool | None:
    """Compare where a side is said in several units; None where neither is. A bare number means the largest of them."""
    first, second = read_quantity(gold), read_quantity(answer)
    if not first and not second:
        return None
    first = first or readings(gold, is_numeric=True)
    second = second or readings(answer, is_numeric=True)
    for left in first:
        for right in second:
            if (left.unit is None and right is not second[0]) or (right.unit is None and left is not first[0]):
                continue
            try:
                if same_reading(left, right, is_integer):
                    return True
            except UnreadableError:
                continue
    return False if first and second else None
