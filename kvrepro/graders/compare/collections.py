"""Answers of several parts: lists and sets in any order, tuples and matrices place by place.

How two parts compare is the caller's business (`Compare`), because a part may be anything an answer may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kvrepro.graders.cleaning import split_top

# (gold, answer) -> equal, or None where that cannot be read
Compare = Callable[[str, str], "bool | None"]

_EQUALS = re.compile(r"(?<![<>!:])=(?!=)|\\equiv(?![A-Za-z])")
APPROX = re.compile(r"\\approx(?![A-Za-z])")
_SEPARATOR = re.compile(
    r"(?i)[,;]|&|\\text\{\s*[,;]?\s*(?:and|or|,|;)\s*\}|\\land(?![A-Za-z])|\\lor(?![A-Za-z])|\\cr(?![A-Za-z])"
    r"|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])|[或和与]",
)
_COMMA = re.compile("[,;]")
_TUPLE = re.compile(r"(?s)^(?:\((.*)\)|\\langle(.*)\\rangle|\[(.*)\])$")
_ENVIRONMENT = re.compile(
    r"(?s)^(.*?)\\begin\s*\{([pbvBV]?matrix|smallmatrix|array)\}\s*(?:\{[^{}]*\})?(.*)\\end\s*\{\2\}\s*[ )\]]*$"
)
_POINT_LABEL = re.compile(
    r"(?i)^(?:\\text\{\s*(?:point|vertex|center|centre)?\s*[A-Z]?\s*\}|[A-Z]'?|point|\\vec\s*\{?\w\}?)\s*=?\s*(?=\()",
)
_TRANSPOSED = re.compile(r"\s*\^\s*\{?\s*(?:T|t|\\top|\\intercal|\\text\{\s*T\s*\})\s*\}?$")
_DIAGONAL = re.compile(r"^(?:\\text\{\s*diag\s*\}|\\?diag)\s*[(\[](.+)[)\]]$")
# combinations, or a point named C
_SELECTION = re.compile(r"^[CP]\s*\(\s*\d+\s*,\s*\d+\s*\)$")
# `-7i + 16j + 5k`
_UNIT_VECTORS = re.compile(r"(.*?)\\?i(?:math)?\s*([+-].*?)\\?j(?:math)?\s*(?:([+-].*?)\\?k)?")
_MEMBER_OF = re.compile(r"^\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*")
_VARIABLE = re.compile(r"\s*[A-Za-z](?:_\{?\w+\}?)?\s*")
# one number with thousands separators, in groups of three, or of two before the last three as in India
_GROUPED = re.compile(
    r"^[^\d,(\[]*[1-9](?:\d{0,2}(?:,\d{3})+|\d?(?:,\d{2})+,\d{3})(?:\.\d+)?"
    r"[^\d,(\[]*(?:[A-Za-z}]\s*\^\s*\{?\s*-?\d\s*\}?[^\d,(\[]*)*$"
)


def sides_of(text: str) -> list[str]:
    """Sides of an equation or of a chain of them; one side if there is no equals sign."""
    sides = split_top(text, _EQUALS)
    sides = sides[1:] if len(sides) > 1 and not sides[0] else sides
    if len(sides) == 1 and len(pieces := split_top(text, APPROX)) > 1:
        # `x \approx 3`: what is left of the sign is a side of its own
        return [pieces[0], text] if pieces[0] else [text[text.index("\\approx") + 7 :].strip()]
    return sides


def squeeze(text: str) -> str:
    """Without white space, except between digits."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _distinct(parts: list[str]) -> list[str]:
    return list({squeeze(part): part for part in reversed(parts)}.values())[::-1]


def elements(text: str, separator: re.Pattern[str] = _SEPARATOR) -> list[str]:
    """Parts of a bare list (`1, 2 and 3`, `x = \\pm 2`), without repeated ones; one part if it is no list."""
    if separator is _SEPARATOR and _is_grouped_number(text):
        return [text]
    parts: list[str] = []
    for part in filter(None, split_top(text, separator)):
        upper, lower = (
            re.sub(r"\\(pm|mp)(?![A-Za-z])", lambda m, up=up: "-+"[(m[1] == "pm") == up], part) for up in (1, 0)
        )
        parts.extend([part] if upper == lower else [re.sub(r"^\s*\+", "", upper), lower])
    return _distinct(parts)


def _is_grouped_number(text: str) -> bool:
    return bool(_GROUPED.match(text)) and "\\{" not in text


def braced(text: str) -> list[str] | None:
    """Elements of `\\{...\\}`; None for anything else, set-builder notation included."""
    is_one = text.startswith("\\{") and text.endswith("\\}") and len(split_top(text, re.compile(r"(?<=\\\})"))) <= 2
    return elements(text[2:-2], _COMMA) if is_one and not re.search(r"\||:|\\mid", text) else None


def ordered(text: str) -> list[str] | None:
    """Components of `(a, b)`, `<a, b>`, a column, or a sum of unit vectors."""
    text = _TRANSPOSED.sub("", _POINT_LABEL.sub("", text)) if not text.startswith("\\begin") else text
    if match := _TUPLE.match(text):
        # `(1,2)\cup(3,4)` is no pair
        inner = match[1] or match[2] or match[3]
        parts = split_top(inner, _COMMA)
        return parts if len(parts) > 1 and not re.match(r"[^(\[]*[)\]]", inner) else None
    if vectors := _UNIT_VECTORS.fullmatch(text):
        return [re.sub(r"^\s*([-+]?)\s*$", r"\g<1>1", part) for part in vectors.groups() if part is not None]
    factor, rows = _rows_of(text)
    return [row[0] for row in rows] if len(rows) > 1 and not factor and all(len(row) == 1 for row in rows) else None


def _rows_of(text: str) -> tuple[str, list[list[str]]]:
    """(scalar factor, rows) of a matrix; no rows where the text is none."""
    if diagonal := _DIAGONAL.match(text):
        entries = split_top(diagonal[1], _COMMA)
        return "", [[entry if i == j else "0" for j in range(len(entries))] for i, entry in enumerate(entries)]
    if text.startswith("[[") and text.endswith("]]"):
        return "", [split_top(row.strip("[]"), _COMMA) for row in split_top(text[1:-1], _COMMA)]
    transposed = _TRANSPOSED.search(text)
    match = _ENVIRONMENT.match(text[: transposed.start()] if transposed else text)
    if match is None:
        return "", []
    rows = [row for row in re.split(r"\\cr(?![A-Za-z])(?:\s*\[[^\]]*\])?", match[3]) if row.strip()]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if transposed and len({len(row) for row in cells}) == 1:
        cells = [list(column) for column in zip(*cells, strict=True)]
    return match[1].strip(" ([").removesuffix("\\cdot").strip(), cells


def _named(part: str) -> tuple[str, str]:
    """(name, value) of `x = 2`; no name where the part is no assignment to a letter."""
    sides = sides_of(part)
    return (sides[0].strip(), sides[1]) if len(sides) == 2 and _VARIABLE.fullmatch(sides[0]) else ("", part)


def _values_of(parts: list[str]) -> list[str]:
    """Parts without the variable that each or the first may repeat."""
    return _distinct([_named(part)[1] for part in parts])


def _assignments(parts: list[str]) -> dict[str, str]:
    """`x = 2`, `y = 3` as a mapping; empty if a part is no assignment or a letter repeats."""
    named = dict(map(_named, parts))
    return named if "" not in named and len(named) == len(parts) else {}


def _all_equal(gold: list[str], answer: list[str], compare: Compare) -> bool | None:
    """Same length and equal in order; None where a pair cannot be read and no pair differs."""
    if len(gold) != len(answer):
        return False
    verdicts = [compare(left, right) for left, right in zip(gold, answer, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _any_order(gold: list[str], answer: list[str], compare: Compare) -> bool | None:
    """Same elements, each used once, in any order."""
    if len(gold) != len(answer):
        return False
    rest = list(answer)
    for left in gold:
        verdicts = [compare(left, right) for right in rest]
        if True not in verdicts:
            return None if None in verdicts else False
        rest.pop(verdicts.index(True))
    return True


def same_matrix(gold: str, answer: str, compare: Compare) -> bool | None:
    """Matrices entry by entry, with a scalar factor multiplied in; a column may also be a tuple."""
    answer = sides_of(answer)[-1]
    first, second = _rows_of(gold), _rows_of(answer)
    if not first[1]:
        return None
    if not second[1]:
        second = ("", [[part] for part in ordered(answer) or []])
    if list(map(len, first[1])) != list(map(len, second[1])):
        return False if second[1] else None
    entries = [
        [f"({factor})({cell})" if factor.strip("-") else factor + cell for row in rows for cell in row]
        for factor, rows in (first, second)
    ]
    return _all_equal(*entries, compare)


def same_collection(gold: str, answer: str, is_integer: bool, compare: Compare) -> bool | None:
    """Sets and lists in any order, tuples in theirs; a single gold never equals a list.

    None where neither side is a collection.
    """
    sides, parts = sides_of(answer), elements(answer)
    gold_set, answer_set = braced(gold), braced(answer) or braced(_MEMBER_OF.sub("", sides[-1]))
    gold_tuple, answer_tuple = ordered(gold), ordered(answer) or (ordered(sides[-1]) if len(sides) == 2 else None)
    if gold_set is not None:
        return (
            False if answer_tuple and not answer_set else _any_order(gold_set, answer_set or _values_of(parts), compare)
        )
    if gold_tuple is not None and answer_tuple is not None:
        is_same_kind = (gold[0] == "[") == (sides[-1][0] == "[") and (gold[-1] == "]") == (answer[-1] == "]")
        return is_same_kind and _all_equal(gold_tuple, answer_tuple, compare)
    if gold_tuple is not None and not _SELECTION.match(gold):
        # `y = 4, x = 2` is the point (2, 4)
        values = [value for _, value in sorted(_assignments(parts).items())] or parts
        return answer_set is None and _all_equal(gold_tuple, values, compare)
    gold_list = elements(gold)
    if len(gold_list) > 1:
        return _same_list(gold_list, answer, answer_set, compare)
    if answer_set is not None:
        return _any_order([gold], answer_set, compare)
    return False if answer_tuple and not _SELECTION.match(answer) else _single(gold, answer, parts, is_integer, compare)


def _same_list(gold_list: list[str], answer: str, answer_set: list[str] | None, compare: Compare) -> bool | None:
    named, answered = _assignments(gold_list), _assignments(elements(answer))
    if named and set(named) == set(answered):
        return _all_equal(list(named.values()), [answered[name] for name in named], compare)
    parts = answer_set or _values_of(elements(answer))
    if len(parts) == 1 and _is_grouped_number(answer):
        parts = answer.split(",")
    if len(parts) == 1 and (in_order := ordered(answer)):
        return _all_equal(gold_list, in_order, compare)
    return _any_order([_named(part)[1] for part in gold_list], parts, compare)


def _single(gold: str, answer: str, parts: list[str], is_integer: bool, compare: Compare) -> bool | None:
    """A gold of one value against an answer that may be several."""
    values = _values_of(parts)
    if not values:
        # nothing but separators, such as a lone `&`: no value that could equal the gold
        return False if squeeze(answer) else None
    if len(values) == 1:
        return None if squeeze(values[0]) == squeeze(answer) else compare(gold, values[0])
    if not is_integer and re.fullmatch(r"-?\d+,\d+", answer) and re.fullmatch(r"-?\d*\.\d+", gold):
        # a decimal comma
        return compare(gold, answer.replace(",", "."))
    named, last = _assignments(parts[:-1]), sides_of(parts[-1])
    if named and len(last) > 1 and len(last[0].strip()) > 1 and all(name in last[0] for name in named):
        # `p = 112, q = 1, p + q = 113`: the parts before lead to the last one
        return compare(gold, last[-1])
    # `3/5 or 0.6` is one value written twice
    return all(compare(gold, value) for value in values)
