"""Sets of real numbers: intervals, unions, inequalities, set-builder notation, compared however they are written.

A set is the list of its ends, as expression trees, and a rule that says from the place of a number among them whether
it belongs; two sets are equal if they agree at every end and in every gap between two ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

from kvrepro.graders.cleaning import split_top
from kvrepro.graders.compare.collections import braced, ordered, sides_of
from kvrepro.graders.compare.evaluation import close, context, evaluate, real, sample_points
from kvrepro.graders.compare.expression import Tree, UnreadableError, read_expression, symbols_of
from kvrepro.graders.compare.scalars import literal
from kvrepro.graders.words import plain

_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z])|<=|>=|!=|<|>")
# the places beside an end (-1 below, 0 at it, 1 above) that a relation to it allows
_LESS, _AT_MOST, _MORE, _AT_LEAST, _OTHER = {-1}, {-1, 0}, {1}, {0, 1}, {-1, 1}
_PLACES = {"<": _LESS, "<=": _AT_MOST, "\\le": _AT_MOST, ">": _MORE, ">=": _AT_LEAST, "\\ge": _AT_LEAST}
_OPENING, _CLOSING = {"(": _MORE, "[": _AT_LEAST, "]": _MORE}, {")": _LESS, "]": _AT_MOST, "[": _LESS}
_UNION = re.compile(r"\\cup(?![A-Za-z])|\bU\b")
_OR = re.compile(r"(?i)\\text\{\s*(?:or|,or)\s*\}|\\lor(?![A-Za-z])|(?<![A-Za-z\\])or(?![A-Za-z])")
_AND = re.compile(r"(?i)\\text\{\s*and\s*\}|\\land(?![A-Za-z])|(?<![A-Za-z\\])and(?![A-Za-z])|,|;|\\cap(?![A-Za-z])")
_LIST = re.compile(r",|\\text\{\s*(?:and|or)\s*\}|\b(?:and|or)\b")
_MINUS = re.compile(r"\\setminus(?![A-Za-z])|-(?=\s*\\\{)")
_ENDS = re.compile(r"(?s)^(\(|\[|\])\s*(.+)\s*(\)|\]|\[)$")
_MEMBER = re.compile(r"(?s)^\s*[A-Za-z](?:_\w|_\{\w+\})?\s*\\in(?![A-Za-z])\s*(.+)$")
_SUCH_THAT = r"(?:\||:|\\mid(?![A-Za-z]))"
_BUILDER = re.compile(
    rf"(?s)^\\\{{\s*[A-Za-z]\s*(?:\\in\s*\\mathbb\s*\{{?\s*R\s*\}}?\s*)?{_SUCH_THAT}\s*(.+?)\s*\\\}}$"
)
_ALL_REALS = r"(?:all |any |the set of )*real(?: number| value)?s?"
_REALS = re.compile(rf"(?i)^(?:\\mathbb\s*R|\\R|{_ALL_REALS})$")
_EXCEPT = re.compile(
    rf"(?i)^{_ALL_REALS}(?: of [a-z])?,?\s+(?:except(?: for)?|other than|excluding|but)\s+(?:[a-z]\s*=\s*)?([^a-z=]+)$",
)
_HALF_LINE = re.compile(
    r"(?i)^(?:all |the set of (?:all )?)*(non-?)?(positive|negative) (?:real numbers?|reals|numbers?|real)$"
    r"|^\\mathbb\s*R\s*(?:_\s*(?:(\\ge|>=)|>)\s*0|[_^]\s*\+)$",
)
_ONE_SYMBOL = re.compile(r"^[A-Za-z](?:_\{?\w+\}?)?$|^\\(?:theta|alpha|beta|lambda|mu|phi|omega)$|^\|[A-Za-z]\|$")
_NAME = re.compile(r"[A-Za-z\s\\]+(?:cap|cup)?[A-Za-z\s\\]*|\\text\{.*\}")

# the place of a number beside an end: -1, 0 or 1
Place = Callable[[Tree], int]


@dataclass(frozen=True)
class RealSet:
    """`contains` says whether a number with these places beside the ends belongs to the set."""

    ends: tuple[Tree, ...]
    contains: Callable[[Place], bool]


REALS, EMPTY = RealSet((), lambda _: True), RealSet((), lambda _: False)


def _bounded(places: set[int], end: Tree) -> RealSet:
    """All numbers at these places beside an end."""
    return RealSet((end,), lambda place: place(end) in places)


def _combined(rule: Callable[[Iterable[bool]], bool], sets: Iterable[RealSet]) -> RealSet:
    """Union (`any`) or intersection (`all`)."""
    sets = list(sets)
    ends = tuple(end for each in sets for end in each.ends)
    return RealSet(ends, lambda place: rule(each.contains(place) for each in sets))


def _outside(inner: RealSet) -> RealSet:
    return RealSet(inner.ends, lambda place: not inner.contains(place))


def _points(text: str) -> RealSet:
    return _combined(any, (_bounded({0}, read_expression(point)) for point in split_top(text, _LIST)))


def read_real_set(text: str) -> RealSet:
    """A set of reals written in any of the usual ways; `(a,b)` is read as an interval.

    Raises:
        UnreadableError: the text is no set of reals.
    """
    text = text.strip()
    words = plain(text)
    if text == "\\emptyset" or _REALS.match(words):
        return EMPTY if text == "\\emptyset" else REALS
    if half := _HALF_LINE.match(words):
        names = {"positive": _MORE, "negative": _LESS, "nonpositive": _AT_MOST, "nonnegative": _AT_LEAST}
        name = f"{'non' if half[1] else ''}{half[2]}".casefold() if half[2] else ""
        return _bounded(names.get(name, _AT_LEAST if half[3] else _MORE), ("number", Fraction(0)))
    if match := _EXCEPT.match(words):
        return _outside(_points(match[1]))
    if len(parts := split_top(text, _UNION)) > 1:
        return _combined(any, map(read_real_set, parts))
    if match := _BUILDER.match(text) or _MEMBER.match(text):
        return read_real_set(match[1])
    if match := re.match(r"^[A-Za-z]\s*=\s*([^=]+)$|^\\\{([^<>|:]*)\\\}$", text):
        return _points(match[1] or match[2])
    if len(parts := split_top(text, _MINUS)) == 2:
        return _combined(all, [read_real_set(parts[0]), _outside(read_real_set(parts[1]))])
    if len(parts := split_top(text, _OR)) > 1:
        return _combined(any, map(read_real_set, parts))
    return _conditions(text) if len(split_top(text, _RELATION)) > 1 else _interval(text)


def _interval(text: str) -> RealSet:
    match = _ENDS.match(text)
    ends = split_top(match[2], re.compile("[,;]")) if match else []
    if match is None or len(ends) != 2:
        raise UnreadableError("not an interval")
    low, high = (read_expression(end) for end in ends)
    if not symbols_of(low) | symbols_of(high) and real(evaluate(high)) < real(evaluate(low)):
        raise UnreadableError("ends in falling order")
    return _combined(all, [_bounded(_OPENING[match[1]], low), _bounded(_CLOSING[match[3]], high)])


def _conditions(text: str) -> RealSet:
    """Inequalities that must all hold; `x \\ne 0, 1` excludes both."""
    parts = split_top(text, _AND)
    for i, part in enumerate(parts):
        if not _RELATION.search(part):
            if "\\ne" not in parts[0]:
                raise UnreadableError("a condition without a relation")
            parts[i] = f"{_RELATION.split(parts[0])[0]} \\ne {part}"
    sets = list(map(_chain, parts))
    common = _combined(all, sets)
    # `m < -2, m > 2` lists two branches: read as both at once it would be empty
    is_list = len(sets) > 1 and not re.search(r"\band\b|\\land|\\cap", text)
    return _combined(any, sets) if is_list and same_real_set(common, EMPTY) else common


def _chain(text: str) -> RealSet:
    """`x < 2`, `1 \\le x < 2`, `|x| > 3`."""
    relations = [_PLACES.get(relation, _OTHER) for relation in _RELATION.findall(text)]
    sides = split_top(text, _RELATION)
    found = [i for i, side in enumerate(sides) if _ONE_SYMBOL.match(side) and (len(sides) == 2 or i == 1)]
    if len(sides) != len(relations) + 1 or not all(sides) or len(sides) > 3 or len(found) != 1:
        raise UnreadableError("not an inequality for one variable")
    at, sets = found[0], []
    for i, places in enumerate(relations):
        bound = read_expression(sides[i + 1] if i == at else sides[i])
        mirrored = {-place for place in places}
        if i != at:
            places, mirrored = mirrored, places
        if sides[at].strip("|") in symbols_of(bound):
            raise UnreadableError("the variable is on both sides")
        sets.append(_bounded(places, bound))
        if sides[at].startswith("|"):
            sets[-1] = _combined(all if -1 in places else any, [sets[-1], _bounded(mirrored, ("neg", bound))])
    return _combined(all, sets)


def same_real_set(first: RealSet, second: RealSet) -> bool:
    """Equal at every end and in every gap, for each sample of the symbols that the ends hold."""
    ends = (*first.ends, *second.ends)
    samples = sample_points(*ends) if any(map(symbols_of, ends)) else [{}]
    return all(_agree(first, second, values) for values in samples)


def _agree(first: RealSet, second: RealSet, values: dict[str, Fraction]) -> bool:
    numbers = {end: real(evaluate(end, values)) for end in (*first.ends, *second.ends)}
    finite = sorted(x for x in numbers.values() if not context().isinf(x)) or [context().mpf(0)]
    gaps = ((low + high) / 2 for low, high in pairwise(finite))
    points = (finite[0] - 1, *finite, *gaps, finite[-1] + 1)
    return all(_holds(first, numbers, point) == _holds(second, numbers, point) for point in points)


def _holds(members: RealSet, numbers: dict[Tree, Any], x: Any) -> bool:
    """Does a set whose ends have these values hold x?"""
    return members.contains(lambda end: 0 if close(x, numbers[end]) else 1 if x > numbers[end] else -1)


def same_set(gold: str, answer: str) -> bool | None:
    """Intervals, inequalities, unions; a pair in round brackets on both sides is left to be compared as a pair.

    None where one of them is no set of reals.
    """
    if not _is_set_like(gold) or (ordered(gold) is not None and ordered(answer) is not None):
        return None
    # intervals in a list are a union where the gold is one
    parts = split_top(answer, _LIST)
    is_union = "\\cup" in gold and len(parts) > 1 and all(re.match(r"^[(\[].*[)\]]$", part) for part in parts)
    try:
        first, second = map(read_real_set, map(_right_of_member, (gold, " \\cup ".join(parts) if is_union else answer)))
    except UnreadableError:
        is_other = not _is_set_like(answer)
        if is_other and braced(answer) is None and literal(answer) is not None:
            return False
        if gold[0] == "(" if ordered(gold) is not None else is_other:
            return None
        raise
    return same_real_set(first, second)


def _right_of_member(text: str) -> str:
    sides = sides_of(text)
    return sides[-1] if len(sides) == 2 and _NAME.fullmatch(sides[0]) else text


def _is_set_like(text: str) -> bool:
    if re.search(r"\\(?:le|ge|ne|in|cup|setminus|mathbb|emptyset)(?![A-Za-z])|[<>]", text):
        return True
    if any(pattern.match(plain(text)) for pattern in (_REALS, _HALF_LINE, _EXCEPT)):
        return True
    parts = re.fullmatch(r"[(\[\]](.*)[)\]\[]", text)
    is_pair = parts is not None and len(split_top(parts[1], re.compile("[,;]"))) == 2
    return is_pair or (text.startswith("\\{") and bool(re.search(_SUCH_THAT, text)))
