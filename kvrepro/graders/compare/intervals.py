"""Sets of real numbers: intervals, unions, inequalities, set-builder notation, brought to one form.

A set is a list of pieces (low, low_closed, high, high_closed) with expression trees as ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from kvrepro.graders.cleaning import split_top
from kvrepro.graders.compare.arithmetic import number
from kvrepro.graders.compare.evaluation import close, evaluate, same_value, symbols_of
from kvrepro.graders.compare.expression import Tree, read_expression
from kvrepro.graders.compare.lexer import UnreadableError
from kvrepro.graders.words import plain

_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|\\ne(?![A-Za-z])|<=|>=|!=|<|>")
_SPELLED = {"\\le": "<=", "\\ge": ">=", "\\ne": "!="}
_UNION = re.compile(r"\\cup(?![A-Za-z])|\bU\b")
_OR = re.compile(r"\\text\{\s*(?:or|,or)\s*\}|\\lor(?![A-Za-z])|(?<![A-Za-z\\])or(?![A-Za-z])", re.IGNORECASE)
_AND = re.compile(
    r"\\text\{\s*and\s*\}|\\land(?![A-Za-z])|(?<![A-Za-z\\])and(?![A-Za-z])|,|;|\\cap(?![A-Za-z])", re.IGNORECASE
)
_MINUS = re.compile(r"\\setminus(?![A-Za-z])|-(?=\s*\\\{)")
_ENDS = re.compile(r"^(\(|\[|\])\s*(.+)\s*(\)|\]|\[)$", re.DOTALL)
_MEMBER = re.compile(r"^\s*[A-Za-z](?:_\w|_\{\w+\})?\s*\\in(?![A-Za-z])\s*(.+)$", re.DOTALL)
_BUILDER = re.compile(
    r"^\\\{\s*([A-Za-z])\s*(?:\\in\s*\\mathbb\s*\{?\s*R\s*\}?\s*)?(?:\||:|\\mid(?![A-Za-z]))\s*(.+?)\s*\\\}$", re.DOTALL
)
_REALS = re.compile(
    r"^(?:\\mathbb\s*\{?\s*R\s*\}?|\\text\{\s*(?:all )?real(?: number)?s?\s*\}|(?:all )?real numbers|\\R)$"
)
_EXCEPT = re.compile(
    r"^(?:all |any |the set of )*real(?: number| value)?s?(?: of [a-z])?,?\s+"
    r"(?:except(?: for)?|other than|excluding|but)\s+(?:[a-z]\s*=\s*)?([^a-z=]+)$",
    re.IGNORECASE,
)
_ONE_SYMBOL = re.compile(r"^[A-Za-z](?:_\{?\w+\}?)?$|^\\(?:theta|alpha|beta|lambda|mu|phi|omega)$")

INFINITY: Tree = ("symbol", "infinity")
MINUS_INFINITY: Tree = ("neg", INFINITY)


@dataclass(frozen=True)
class Piece:
    """One interval; a single point has equal closed ends."""

    low: Tree
    low_closed: bool
    high: Tree
    high_closed: bool


RealSet = list[Piece]
REALS: RealSet = [Piece(MINUS_INFINITY, False, INFINITY, False)]


def read_real_set(text: str) -> RealSet:
    """Pieces of a set of reals written in any of the usual ways.

    `(a,b)` is read as an interval; the caller decides if it is a point.

    Raises:
        UnreadableError: the text is no set of reals.
    """
    text = text.strip()
    if _REALS.match(text):
        return list(REALS)
    if text == "\\emptyset":
        return []
    if match := _EXCEPT.match(plain(text)):
        points = [read_expression(part) for part in split_top(match[1], re.compile(r",|\band\b|\bor\b"))]
        return complement([Piece(point, True, point, True) for point in points])
    if len(parts := split_top(text, _UNION)) > 1:
        return _combine([read_real_set(part) for part in parts], unite)
    if match := _BUILDER.match(text):
        return read_real_set(match[2])
    if match := _MEMBER.match(text):
        pieces = split_top(match[1], re.compile(r",|\\text\{\s*and\s*\}"))
        if len(pieces) > 1:
            return _combine([read_real_set(part) for part in pieces], intersect)
        return read_real_set(match[1])
    if match := re.match(r"^[A-Za-z]\s*=\s*([^=]+)$", text):
        point = read_expression(match[1])
        return [Piece(point, True, point, True)]
    if len(parts := split_top(text, _MINUS)) == 2:
        return intersect(read_real_set(parts[0]), complement(read_real_set(parts[1])))
    if len(parts := split_top(text, _OR)) > 1:
        return _combine([read_real_set(part) for part in parts], unite)
    if len(split_top(text, _RELATION)) > 1:
        return _conditions(text)
    if text.startswith("\\{") and text.endswith("\\}"):
        points = [read_expression(part) for part in split_top(text[2:-2], re.compile(","))]
        return _combine([[Piece(point, True, point, True)] for point in points], unite)
    return [_interval(text)]


def _interval(text: str) -> Piece:
    match = _ENDS.match(text)
    ends = split_top(match[2], re.compile("[,;]")) if match else []
    if len(ends) != 2:
        raise UnreadableError("not an interval")
    low, high = (read_expression(end) for end in ends)
    is_numeric = not (symbols_of(low) | symbols_of(high)) - {"infinity"}
    if is_numeric and _less(high, low):
        raise UnreadableError("ends in falling order")
    return Piece(low, match[1] == "[", high, match[3] == "]")


def _conditions(text: str) -> RealSet:
    parts = split_top(text, _AND)
    if len(parts) == 1:
        return _chain(text)
    sets = []
    last_sides = None
    for part in parts:
        relations = _RELATION.findall(part)
        if not relations:
            if last_sides and last_sides[1] == "!=":
                # x \ne 0, 1
                part = f"{last_sides[0]} \\ne {part}"
            elif re.match(r"^[A-Za-z]\s*\\in\s*\\mathbb\s*\{?\s*R", part):
                continue
            else:
                raise UnreadableError("a condition without a relation")
        else:
            sides = split_top(part, _RELATION)
            last_sides = (sides[0], _SPELLED.get(relations[0], relations[0]))
        sets.append(read_real_set(part))
    common = _combine(sets, intersect)
    # `m < -2, m > 2` lists two branches: read as both at once it would be empty
    return common or (_combine(sets, unite) if re.search(r"\b(?:and)\b|\\land|\\cap", text) is None else common)


def _chain(text: str) -> RealSet:
    operators = [_SPELLED.get(op, op) for op in _RELATION.findall(text)]
    sides = split_top(text, _RELATION)
    if len(sides) != len(operators) + 1 or not all(sides):
        raise UnreadableError("an unfinished inequality")
    variable = [i for i, side in enumerate(sides) if _ONE_SYMBOL.match(side) or re.match(r"^\|[A-Za-z]\|$", side)]
    variable = [i for i in variable if len(sides) == 2 or 0 < i < len(sides) - 1]
    if len(variable) == 2 and len(sides) == 2:
        raise UnreadableError("a relation between two symbols")
    if len(variable) != 1 or len(sides) > 3:
        raise UnreadableError("not an inequality for one variable")
    at = variable[0]
    name = sides[at].strip("|")
    result = list(REALS)
    for i, operator in enumerate(operators):
        bound = read_expression(sides[i + 1] if i == at else sides[i])
        if name in symbols_of(bound):
            raise UnreadableError("the variable is on both sides")
        if i != at:
            operator = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "!=": "!="}[operator]
        if sides[at].startswith("|"):
            result = intersect(result, _absolute(operator, bound))
        else:
            result = intersect(result, _half_line(operator, bound))
    return result


def _half_line(operator: str, bound: Tree) -> RealSet:
    if operator == "!=":
        return [Piece(MINUS_INFINITY, False, bound, False), Piece(bound, False, INFINITY, False)]
    if operator[0] == "<":
        return [Piece(MINUS_INFINITY, False, bound, operator == "<=")]
    return [Piece(bound, operator == ">=", INFINITY, False)]


def _absolute(operator: str, bound: Tree) -> RealSet:
    if operator[0] == "<":
        return [Piece(("neg", bound), operator == "<=", bound, operator == "<=")]
    if operator[0] == ">":
        closed = operator == ">="
        return [Piece(MINUS_INFINITY, False, ("neg", bound), closed), Piece(bound, closed, INFINITY, False)]
    raise UnreadableError("|x| != c")


def _combine(sets: list[RealSet], operation: Any) -> RealSet:
    result = sets[0]
    for other in sets[1:]:
        result = operation(result, other)
    return result


def _value(tree: Tree) -> Any:
    value = evaluate(tree)
    if isinstance(value, Fraction):
        return value
    if getattr(value, "imag", 0) != 0:
        raise UnreadableError("a complex end")
    return value.real


def _less(first: Tree, second: Tree) -> bool:
    left, right = _value(first), _value(second)
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left < right
    return not close(left, right) and number(left) < number(right)


def _equal(first: Tree, second: Tree) -> bool:
    return close(_value(first), _value(second))


def intersect(first: RealSet, second: RealSet) -> RealSet:
    """Common part; with symbolic ends only where no ends have to be compared."""
    if first == REALS or second == REALS:
        return list(second if first == REALS else first)
    if _is_symbolic(first) or _is_symbolic(second):
        # one lower and one upper bound need no comparison of their ends
        if len(first) == len(second) == 1:
            a, b = sorted((first[0], second[0]), key=lambda piece: piece.low == MINUS_INFINITY)
            if a.high == INFINITY and b.low == MINUS_INFINITY:
                return [Piece(a.low, a.low_closed, b.high, b.high_closed)]
        raise UnreadableError("symbolic ends cannot be ordered")
    result = []
    for a in first:
        for b in second:
            low, low_closed = _inner((a.low, a.low_closed), (b.low, b.low_closed), largest=True)
            high, high_closed = _inner((a.high, a.high_closed), (b.high, b.high_closed), largest=False)
            if _less(low, high) or (_equal(low, high) and low_closed and high_closed):
                result.append(Piece(low, low_closed, high, high_closed))
    return result


def _inner(first: tuple[Tree, bool], second: tuple[Tree, bool], largest: bool) -> tuple[Tree, bool]:
    if _equal(first[0], second[0]):
        return first[0], first[1] and second[1]
    return first if _less(second[0], first[0]) == largest else second


def unite(first: RealSet, second: RealSet) -> RealSet:
    """Union, with touching pieces merged where their ends are numbers."""
    pieces = first + second
    if _is_symbolic(pieces):
        return pieces
    pieces = [p for p in pieces if _less(p.low, p.high) or (_equal(p.low, p.high) and p.low_closed and p.high_closed)]
    pieces.sort(key=lambda piece: (number(_value(piece.low)), not piece.low_closed))
    merged: RealSet = []
    for piece in pieces:
        if merged:
            last = merged[-1]
            touches = _equal(last.high, piece.low) and (last.high_closed or piece.low_closed)
            if touches or _less(piece.low, last.high):
                if _less(last.high, piece.high):
                    high, closed = piece.high, piece.high_closed
                else:
                    high = last.high
                    closed = last.high_closed or (_equal(last.high, piece.high) and piece.high_closed)
                merged[-1] = Piece(last.low, last.low_closed, high, closed)
                continue
        merged.append(piece)
    return merged


def complement(pieces: RealSet) -> RealSet:
    """All reals outside."""
    result = list(REALS)
    for piece in unite(pieces, []):
        outside = []
        if piece.low != MINUS_INFINITY:
            outside.append(Piece(MINUS_INFINITY, False, piece.low, not piece.low_closed))
        if piece.high != INFINITY:
            outside.append(Piece(piece.high, not piece.high_closed, INFINITY, False))
        result = intersect(result, outside)
    return result


def _is_symbolic(pieces: RealSet) -> bool:
    return any((symbols_of(piece.low) | symbols_of(piece.high)) - {"infinity"} for piece in pieces)


def same_real_set(first: RealSet, second: RealSet) -> bool:
    """Equal piece by piece; order is free."""
    if not _is_symbolic(first) and not _is_symbolic(second):
        first, second = unite(first, []), unite(second, [])
    if len(first) != len(second):
        return False
    rest = list(second)
    for piece in first:
        for other in rest:
            if (
                piece.low_closed == other.low_closed
                and piece.high_closed == other.high_closed
                and same_value(piece.low, other.low)
                and same_value(piece.high, other.high)
            ):
                rest.remove(other)
                break
        else:
            return False
    return True
