"""Equations and chains of relations: equal if they say the same, however they are scaled or turned round."""

from __future__ import annotations

import re

from kvrepro.graders.cleaning import split_top
from kvrepro.graders.compare.arithmetic import number
from kvrepro.graders.compare.evaluation import close, evaluate, has_branches, same_value, sample_points, symbols_of
from kvrepro.graders.compare.expression import Tree, read_expression
from kvrepro.graders.compare.lexer import UnreadableError

_EQUALS = re.compile(r"(?<![<>!:])=(?!=)|\\equiv(?![A-Za-z])")
_APPROX = re.compile(r"^\s*\\approx(?![A-Za-z])")
_RELATION = re.compile(r"\\le(?![A-Za-z])|\\ge(?![A-Za-z])|<=|>=|<|>")
_TURNED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_SPELLED = {"\\le": "<=", "\\ge": ">="}


def sides_of(text: str) -> list[str]:
    """Sides of an equation or of a chain of them; one side if there is no equals sign."""
    sides = split_top(text, _EQUALS)
    if len(sides) > 1 and not sides[0]:
        sides = sides[1:]
    if len(sides) == 1:
        pieces = split_top(text, re.compile(r"\\approx(?![A-Za-z])"))
        if len(pieces) > 1:
            # `x \approx 3`: what is left of the sign is a side of its own
            return [pieces[0], text] if pieces[0] else [_APPROX.sub("", text).strip()]
    return sides


def split_chain(text: str) -> list[str] | None:
    """Sides and operators of `b > a > c`, smallest first; None for an inequality that bounds one variable."""
    operators = [_SPELLED.get(op, op) for op in _RELATION.findall(text)]
    sides = split_top(text, _RELATION)
    if not operators or len(sides) != len(operators) + 1 or not all(sides):
        return None
    if len({op[0] for op in operators}) > 1:
        return None
    try:
        free = [symbols_of(read_expression(side)) for side in sides]
    except UnreadableError:
        return None
    if len(set().union(*free)) < 2 or (len(operators) == 1 and not all(free)):
        return None
    if operators[0][0] == ">":
        sides, operators = sides[::-1], [_TURNED[op] for op in operators[::-1]]
    chain = [sides[0]]
    for operator, side in zip(operators, sides[1:], strict=True):
        chain += [operator, side]
    return chain


def same_chain(gold: str, answer: str) -> bool:
    """Same order, written from either end."""
    first, second = split_chain(gold), split_chain(answer)
    if first is None or second is None or len(first) != len(second) or first[1::2] != second[1::2]:
        return False
    return all(
        same_value(read_expression(left), read_expression(right))
        for left, right in zip(first[::2], second[::2], strict=True)
    )


def _difference(sides: list[str]) -> Tree:
    return ("add", read_expression(sides[0]), ("neg", read_expression(sides[-1])))


def same_equation(gold: list[str], answer: list[str]) -> bool:
    """Are two equations left = right the same up to a constant factor?

    Deviates: forms that differ by a factor with a variable, such as y = 1/x and xy = 1, count as different.
    """
    first, second = _difference(gold), _difference(answer)
    names = symbols_of(first) | symbols_of(second)
    if symbols_of(first) != symbols_of(second) or not names:
        return not names and same_value(first, second)
    ratio = None
    used = 0
    n_points = 3 if has_branches(first) or has_branches(second) else 6
    for values in sample_points(names)[:n_points]:
        try:
            left, right = evaluate(first, values), evaluate(second, values)
        except UnreadableError:
            continue
        if left == 0 or right == 0:
            if (left == 0) != (right == 0):
                return False
            continue
        quotient = left / right if type(left) is type(right) else number(left) / number(right)
        if ratio is not None and not close(ratio, quotient):
            return False
        ratio = quotient
        used += 1
    if used < 2:
        raise UnreadableError("undefined at every sample")
    return True
