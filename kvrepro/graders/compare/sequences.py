"""Answers of several parts: lists and sets in any order, tuples and matrices place by place.

How two parts compare is the caller's business (`Compare`), because a part may be anything an answer may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kvrepro.graders.compare.equations import sides_of
from kvrepro.graders.compare.scalars import literal, same_scalar
from kvrepro.graders.compare.sets import integers_of
from kvrepro.graders.compare.shapes import (
    assigned,
    assignments,
    bare,
    braced,
    elements,
    is_grouped_number,
    is_selection,
    ordered,
    rows_of,
    squeeze,
    summed_up,
    values_of,
)
from kvrepro.graders.compare.vectors import components

# (gold, answer) -> equal, or None where that cannot be read
Compare = Callable[[str, str], "bool | None"]

_MEMBER_OF = re.compile(r"^\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*")


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
    unread = False
    for left in gold:
        for right in rest:
            equal = compare(left, right)
            unread = unread or equal is None
            if equal:
                rest.remove(right)
                break
        else:
            return None if unread else False
    return True


def same_matrix(gold: str, answer: str, compare: Compare) -> bool | None:
    """Matrices entry by entry, with a scalar factor multiplied in; a column may also be a tuple."""
    first = rows_of(gold)
    if first is None:
        return None
    sides = sides_of(answer)
    answer = sides[-1] if len(sides) > 1 else answer
    second = rows_of(answer)
    if second is None:
        parts = ordered(answer)
        if parts is None and all(len(row) == 1 for row in first[1]):
            parts = components(answer, len(first[1]))
        if parts is None or any(len(row) != 1 for row in first[1]):
            return False if parts is not None else None
        second = ("", [[part] for part in parts])
    if [len(row) for row in first[1]] != [len(row) for row in second[1]]:
        return False
    cells = [
        [f"({factor})({cell})" if factor else cell for row in rows for cell in row] for factor, rows in (first, second)
    ]
    cells = [[re.sub(r"^\(-\)", "-", cell) for cell in column] for column in cells]
    return all_equal(cells[0], cells[1], compare)


def same_collection(gold: str, answer: str, is_integer: bool, compare: Compare) -> bool | None:
    """Sets and lists in any order, tuples in theirs; a single gold never equals a list.

    None where neither side is a collection.
    """
    gold_set, answer_set = braced(gold) or integers_of(gold), braced(answer) or integers_of(answer)
    sides = sides_of(answer)
    if answer_set is None:
        answer_set = braced(_MEMBER_OF.sub("", sides[-1]))
    if gold_set is not None:
        if not answer_set and ordered(answer):
            return False
        return any_order(gold_set, answer_set or values_of(answer), compare)
    gold_tuple = None if is_selection(gold) and not ordered(answer) else ordered(gold)
    if gold_tuple is not None:
        if len(sides) == 2 and ordered(sides[-1]):
            answer = sides[-1]
        parts = ordered(answer)
        parts = components(sides[-1], len(gold_tuple)) if parts is None else parts
        if parts is None:
            if answer_set is not None or len(gold_tuple) != len(elements(answer)):
                return False
            parts = assigned(elements(answer))
        elif (gold[0] == "[") != (answer[0] == "[") or (gold[-1] == "]") != (answer[-1] == "]"):
            return False
        return all_equal(gold_tuple, parts, compare)
    gold_list = elements(gold)
    if len(gold_list) > 1:
        return _same_list(gold_list, answer, answer_set, compare)
    if answer_set is not None:
        return any_order([gold], answer_set, compare)
    if ordered(answer) is not None and not is_selection(answer):
        return False
    return _single(gold, answer, is_integer, compare)


def _same_list(gold_list: list[str], answer: str, answer_set: list[str] | None, compare: Compare) -> bool | None:
    named, answered = assignments(gold_list), assignments(elements(answer))
    if named is not None and answered is not None and set(named) == set(answered):
        return all_equal(list(named.values()), [answered[name] for name in named], compare)
    parts = answer_set or values_of(answer)
    if len(parts) == 1 and is_grouped_number(answer):
        parts = answer.split(",")
    if len(parts) == 1 and (in_order := ordered(answer)):
        return all_equal(gold_list, in_order, compare)
    return any_order([bare(part) for part in gold_list], parts, compare)


def _single(gold: str, answer: str, is_integer: bool, compare: Compare) -> bool | None:
    """A gold of one value against an answer that may be several."""
    parts = values_of(answer)
    if len(parts) > 1:
        if not is_integer and re.fullmatch(r"-?\d+,\d+", answer) and literal(gold) is not None and "." in gold:
            return same_scalar(gold, answer.replace(",", "."), False)
        if (total := summed_up(elements(answer))) is not None:
            return compare(gold, total)
        # `3/5 or 0.6` is one value written twice
        return all(compare(gold, part) for part in parts)
    if not parts:
        # nothing but separators, such as a lone `&`: no value that could equal the gold
        return False if squeeze(answer) else None
    return None if squeeze(parts[0]) == squeeze(answer) else compare(gold, parts[0])
