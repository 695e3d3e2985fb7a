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
_COMMA = re.compile(",")
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
    if len(sides) > 1 and not sides[0]:
        sides = sides[1:]
    if len(sides) == 1 and len(pieces := split_top(text, APPROX)) > 1:
        # `x \approx 3`: what is left of the sign is a side of its own
        return [pieces[0], text] if pieces[0] else [text[text.index("\\approx") + 7 :].strip()]
    return sides


def squeeze(text: str) -> str:
    """Without white space, except between digits."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


def _distinct(parts: list[str]) -> list[str]:
    return list({squeeze(part): part for part in reversed(parts)}.values())[::-1]


def _expand(part: str) -> list[str]:
    """`\\pm` as its two values."""
    upper = re.sub(r"\\mp(?![A-Za-z])", "-", re.sub(r"\\pm(?![A-Za-z])", "+", part))
    lower = re.sub(r"\\mp(?![A-Za-z])", "+", re.sub(r"\\pm(?![A-Za-z])", "-", part))
    return [part] if upper == lower else [re.sub(r"^\s*\+", "", upper), lower]


def elements(text: str, separator: re.Pattern[str] = _SEPARATOR) -> list[str]:
    """Parts of a bare list (`1, 2 and 3`, `x = \\pm 2`), without repeated ones; one part if it is no list."""
    if separator is _SEPARATOR and _is_grouped_number(text):
        return [text]
    return _distinct([value for part in split_top(text, separator) if part for value in _expand(part)])


def _is_grouped_number(text: str) -> bool:
    return bool(_GROUPED.match(text)) and "\\{" not in text


def braced(text: str) -> list[str] | None:
    """Elements of `\\{...\\}`; None for anything else, set-builder notation included."""
    is_one = text.startswith("\\{") and text.endswith("\\}") and len(split_top(text, re.compile(r"(?<=\\\})"))) <= 2
    if not is_one or re.search(r"\||:|\\mid", text):
        return None
    return elements(text[2:-2], re.compile("[,;]"))


def ordered(text: str) -> list[str] | None:
    """Components of `(a, b)`, `<a, b>` or a column."""
    text = _TRANSPOSED.sub("", _POINT_LABEL.sub("", text)) if not text.startswith("\\begin") else text
    for opening, closing in (("(", ")"), ("\\langle", "\\rangle"), ("[", "]")):
        if text.startswith(opening) and text.endswith(closing) and len(split_top(text + "#", re.compile("#"))) == 2:
            inner = text[len(opening) : -len(closing)]
            parts = split_top(inner, re.compile("[,;]"))
            if len(parts) > 1 and _is_balanced(inner):
                return parts
    if vectors := _UNIT_VECTORS.fullmatch(text):
        return [
            f"{part.strip(' +')}1" if part.strip() in ("", "+", "-") else part
            for part in vectors.groups()
            if part is not None
        ]
    factor, rows = _rows_of(text)
    return [row[0] for row in rows] if len(rows) > 1 and not factor and all(len(row) == 1 for row in rows) else None


def _is_balanced(text: str) -> bool:
    depths = [0]
    for character in text:
        depths.append(depths[-1] + (character in "([") - (character in ")]"))
    return min(depths) == depths[-1] == 0


def _rows_of(text: str) -> tuple[str, list[list[str]]]:
    """(scalar factor, rows) of a matrix; no rows where the text is none."""
    if diagonal := _DIAGONAL.match(text):
        entries = split_top(diagonal[1], _COMMA)
        return "", [[entry if i == j else "0" for j in range(len(entries))] for i, entry in enumerate(entries)]
    if text.startswith("[[") and text.endswith("]]"):
        lists = split_top(text[1:-1], _COMMA)
        return "", [split_top(row[1:-1], _COMMA) for row in lists if row.startswith("[") and row.endswith("]")]
    transposed = _TRANSPOSED.search(text)
    match = _ENVIRONMENT.match(text[: transposed.start()] if transposed else text)
    if match is None:
        return "", []
    rows = [row for row in re.split(r"\\cr(?![A-Za-z])(?:\s*\[[^\]]*\])?", match[3]) if row.strip()]
    cells = [[cell.strip() for cell in row.split("&")] for row in rows]
    if transposed and len({len(row) for row in cells}) == 1:
        cells = [list(column) for column in zip(*cells, strict=True)]
    return match[1].strip(" ([").removesuffix("\\cdot").strip(), cells


def bare(part: str) -> str:
    """Without a leading `x =`."""
    sides = sides_of(part)
    return sides[-1] if len(sides) == 2 and _VARIABLE.fullmatch(sides[0]) else part


def _values_of(text: str) -> list[str]:
    """Elements of a list without the variable that each or the first may repeat."""
    return _distinct([bare(part) for part in elements(text)])


def _assignments(parts: list[str]) -> dict[str, str] | None:
    """`x = 2`, `y = 3` as a mapping; None if a part is no assignment to a letter or a letter repeats."""
    sides = [sides_of(part) for part in parts]
    named = {pair[0].strip(): pair[-1] for pair in sides if len(pair) == 2 and _VARIABLE.fullmatch(pair[0])}
    return named if len(named) == len(parts) else None


def all_equal(gold: list[str], answer: list[str], compare: Compare) -> bool | None:
    """Same length and equal in order; None where a pair cannot be read and no pair differs."""
    if len(gold) != len(answer):
        return False
    verdicts = [compare(left, right) for left, right in zip(gold, answer, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def any_order(gold: list[str], answer: list[str], compare: Compare) -> bool | None:
    """Same elements, each used once, in any order."""
    if len(gold) != len(answer):
        return False
    rest = list(answer)
    for left in gold:
        verdicts = {right: compare(left, right) for right in rest}
        equal = next((right for right in rest if verdicts[right]), None)
        if equal is None:
            return None if None in verdicts.values() else False
        rest.remove(equal)
    return True


def same_matrix(gold: str, answer: str, compare: Compare) -> bool | None:
    """Matrices entry by entry, with a scalar factor multiplied in; a column may also be a tuple."""
    answer = sides_of(answer)[-1]
    sides = [_rows_of(gold), _rows_of(answer)]
    if not sides[0][1]:
        return None
    if not sides[1][1]:
        parts = ordered(answer)
        if parts is None or any(len(row) != 1 for row in sides[0][1]):
            return None if parts is None else False
        sides[1] = ("", [[part] for part in parts])
    if len({tuple(map(len, rows)) for _, rows in sides}) > 1:
        return False
    first, second = (
        [f"({factor})({cell})" if factor.strip("-") else factor + cell for row in rows for cell in row]
        for factor, rows in sides
    )
    return all_equal(first, second, compare)


def same_collection(gold: str, answer: str, is_integer: bool, compare: Compare) -> bool | None:
    """Sets and lists in any order, tuples in theirs; a single gold never equals a list.

    None where neither side is a collection.
    """
    sides = sides_of(answer)
    gold_set, answer_set = braced(gold), braced(answer) or braced(_MEMBER_OF.sub("", sides[-1]))
    if gold_set is not None:
        if not answer_set and ordered(answer):
            return False
        return any_order(gold_set, answer_set or _values_of(answer), compare)
    gold_tuple, answer_tuple = ordered(gold), ordered(answer) or (ordered(sides[-1]) if len(sides) == 2 else None)
    if gold_tuple is not None and (answer_tuple or not _SELECTION.match(gold)):
        if answer_tuple is None:
            parts = elements(answer)
            if answer_set is not None or len(gold_tuple) != len(parts):
                return False
            # `y = 4, x = 2` is the point (2, 4)
            named = _assignments(parts)
            return all_equal(gold_tuple, [named[n] for n in sorted(named)] if named else parts, compare)
        is_same_kind = (gold[0] == "[") == (sides[-1][0] == "[") and (gold[-1] == "]") == (answer[-1] == "]")
        return all_equal(gold_tuple, answer_tuple, compare) if is_same_kind else False
    gold_list = elements(gold)
    if len(gold_list) > 1:
        return _same_list(gold_list, answer, answer_set, compare)
    if answer_set is not None:
        return any_order([gold], answer_set, compare)
    if answer_tuple and not _SELECTION.match(answer):
        return False
    return _single(gold, answer, is_integer, compare)


def _same_list(gold_list: list[str], answer: str, answer_set: list[str] | None, compare: Compare) -> bool | None:
    named, answered = _assignments(gold_list), _assignments(elements(answer))
    if named and answered and set(named) == set(answered):
        return all_equal(list(named.values()), [answered[name] for name in named], compare)
    parts = answer_set or _values_of(answer)
    if len(parts) == 1 and _is_grouped_number(answer):
        parts = answer.split(",")
    if len(parts) == 1 and (in_order := ordered(answer)):
        return all_equal(gold_list, in_order, compare)
    return any_order([bare(part) for part in gold_list], parts, compare)


def _single(gold: str, answer: str, is_integer: bool, compare: Compare) -> bool | None:
    """A gold of one value against an answer that may be several."""
    parts = _values_of(answer)
    if not parts:
        # nothing but separators, such as a lone `&`: no value that could equal the gold
        return False if squeeze(answer) else None
    if len(parts) == 1:
        return None if squeeze(parts[0]) == squeeze(answer) else compare(gold, parts[0])
    if not is_integer and re.fullmatch(r"-?\d+,\d+", answer) and re.fullmatch(r"-?\d*\.\d+", gold):
        # a decimal comma
        return compare(gold, answer.replace(",", "."))
    named, last = _assignments(elements(answer)[:-1]), sides_of(elements(answer)[-1])
    if named and len(last) > 1 and len(last[0].strip()) > 1 and all(name in last[0] for name in named):
        # `p = 112, q = 1, p + q = 113`: the parts before lead to the last one
        return compare(gold, last[-1])
    # `3/5 or 0.6` is one value written twice
    return all(compare(gold, part) for part in parts)
