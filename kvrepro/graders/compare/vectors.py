"""Vectors written with unit vectors, `-7i + 16j + 5k`, as their components."""

from __future__ import annotations

import re
from fractions import Fraction

from kvrepro.graders.compare.evaluation import evaluate, symbols_of
from kvrepro.graders.compare.expression import read_expression
from kvrepro.graders.compare.lexer import UnreadableError

_AXES = {"i": "xi", "j": "eta", "k": "zeta"}
_AXIS = re.compile(r"(?<![A-Za-z\\_])\\?([ijk])(?:math)?(?![A-Za-z])")


def components(text: str, size: int) -> list[str] | None:
    """Rational components along i, j (and k), as text; None unless the text is a combination of them."""
    if size not in (2, 3) or not re.search(r"(?<![A-Za-z\\])[jk](?![A-Za-z])", text):
        return None
    try:
        tree = read_expression(_AXIS.sub(lambda match: f"\\{_AXES[match[1]]} ", text))
        names = list(_AXES.values())[:size]
        if not symbols_of(tree) <= set(names):
            return None
        # linear: what all axes give together is the sum of what each gives alone
        alone = [evaluate(tree, {name: Fraction(int(name == axis)) for name in names}) for axis in names]
        together = evaluate(tree, dict.fromkeys(names, Fraction(1)))
        origin = evaluate(tree, dict.fromkeys(names, Fraction(0)))
    except UnreadableError:
        return None
    if not all(isinstance(value, Fraction) for value in alone) or origin != 0 or together != sum(alone):
        return None
    return [str(value) for value in alone]
