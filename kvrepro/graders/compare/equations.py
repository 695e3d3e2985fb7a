"""Equations: equal if they say the same, however they are scaled or turned round."""

from __future__ import annotations

import re

from kvrepro.graders.cleaning import split_top
from kvrepro.graders.compare.evaluation import close, number, sampled
from kvrepro.graders.compare.expression import Tree, UnreadableError, read_expression, symbols_of

_EQUALS = re.compile(r"(?<![<>!:])=(?!=)|\\equiv(?![A-Za-z])")
APPROX = re.compile(r"\\approx(?![A-Za-z])")


def sides_of(text: str) -> list[str]:
    """Sides of an equation or of a chain of them; one side if there is no equals sign."""
    sides = split_top(text, _EQUALS)
    if len(sides) > 1 and not sides[0]:
        sides = sides[1:]
    if len(sides) == 1 and len(pieces := split_top(text, APPROX)) > 1:
        # `x \approx 3`: what is left of the sign is a side of its own
        return [pieces[0], text] if pieces[0] else [text[text.index("\\approx") + 7 :].strip()]
    return sides


def _difference(sides: list[str]) -> Tree:
    return ("add", read_expression(sides[0]), ("neg", read_expression(sides[-1])))


def same_equation(gold: list[str], answer: list[str]) -> bool:
    """Are two equations left = right the same up to a constant factor?

    Deviates: forms that differ by a factor with a variable, such as y = 1/x and xy = 1, count as different.

    Raises:
        UnreadableError: a side is no expression, or undefined at nearly every sample.
    """
    first, second = _difference(gold), _difference(answer)
    if symbols_of(first) != symbols_of(second):
        return False
    pairs = list(sampled(first, second))
    if any((left == 0) != (right == 0) for left, right in pairs):
        return False
    ratios = [number(left) / number(right) for left, right in pairs if left != 0]
    if symbols_of(first) and len(ratios) < 2:
        raise UnreadableError("undefined at every sample")
    return bool(symbols_of(first)) and all(close(ratios[0], ratio) for ratio in ratios)
