"""Values of expression trees, exact where rational and to 60 digits elsewhere, and equality by sampling.

Every operation is bounded, so that power towers and factorials of a reply end in `TooLargeError` and not in a hang.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

from kvrepro.graders.compare.expression import Tree, UnreadableError, nodes_of, symbols_of

DIGITS = 60
# two values agree if they differ by less than this part of the larger one
RELATIVE_TOLERANCE = 1e-35
MAX_BITS = 200_000
MAX_FACTORIAL = 20_000
_LOGARITHMS = {"ln": "ln", "log": "log10", "lg": "log10"}


class TooLargeError(ValueError):
    """A value beyond every answer that a benchmark asks for."""


@cache
def context() -> Any:
    """The mpmath context of this process, with `DIGITS` digits; plain numbers do without."""
    import mpmath

    found = mpmath.mp.clone()
    found.dps = DIGITS
    return found


def number(value: Any) -> Any:
    """As an mpmath number."""
    return context().mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value


def real(value: Any) -> Any:
    """The value as a real mpmath number."""
    if getattr(value, "imag", 0) != 0:
        raise UnreadableError("a real number is needed here")
    return number(value).real


def _magnitude(value: Any) -> float:
    """log2 of the absolute value, roughly; 0 for 0."""
    if isinstance(value, Fraction):
        return float(value.numerator.bit_length() - value.denominator.bit_length())
    return float(context().mag(value)) if value and not context().isinf(value) else 0.0


def _bits(value: Any) -> float:
    if isinstance(value, Fraction):
        return max(value.numerator.bit_length(), value.denominator.bit_length())
    return abs(_magnitude(value)) + 1


def _pow(base: Any, exponent: Any) -> Any:
    if _bits(base) * 2 ** _magnitude(exponent) > 5 * MAX_BITS:
        raise TooLargeError("power")
    if base == exponent == 0:
        raise UnreadableError("0 to the power of 0")
    if not isinstance(base, Fraction) or exponent.denominator == 1:
        return base ** (exponent.numerator if isinstance(exponent, Fraction) else exponent)
    # the real branch, as school books mean (-8)^{1/3}
    is_odd = base < 0 and exponent.denominator % 2
    size = context().power(number(-base if is_odd else base), number(exponent))
    return -size if is_odd and exponent.numerator % 2 else size


def _of_whole(operation: Callable[..., int]) -> Callable[..., Fraction]:
    """An operation on whole numbers from 0 to `MAX_FACTORIAL`."""

    def apply(*values: Any) -> Fraction:
        if not all(isinstance(x, Fraction) and x.denominator == 1 and x >= 0 for x in values):
            raise UnreadableError("a whole number is needed here")
        if values[0] > MAX_FACTORIAL:
            raise TooLargeError(operation.__name__)
        return Fraction(operation(*map(int, values)))

    return apply


def _function(name: str, value: Any) -> Any:
    if name in _LOGARITHMS:
        if value == 0:
            raise UnreadableError("logarithm of 0")
        # log without a base is left to both readings
        return getattr(context(), _LOGARITHMS[name])(value)
    if _magnitude(value) > (24 if name in ("exp", "sinh", "cosh", "tanh") else 200):
        raise TooLargeError(name)
    return getattr(context(), name.replace("arc", "a"))(value)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": operator.add,
    "mul": operator.mul,
    "div": operator.truediv,
    "neg": operator.neg,
    "pow": _pow,
    "abs": abs,
    "factorial": _of_whole(math.factorial),
    "binomial": _of_whole(math.comb),
    "floor": lambda x: Fraction(int(context().floor(real(x)))),
    "ceil": lambda x: Fraction(int(context().ceil(real(x)))),
}


def evaluate(tree: Tree, values: Mapping[str, Fraction] | None = None) -> Any:
    """Value as Fraction where exact, else an mpmath number.

    Raises:
        UnreadableError: a symbol without value, or an undefined operation.
        TooLargeError: beyond the bounds.
    """
    kind, *parts = tree
    if kind == "number":
        return parts[0]
    if kind == "symbol":
        found = context().inf if parts[0] == "infinity" else (values or {}).get(parts[0])
        if found is None:
            raise UnreadableError(f"free symbol {parts[0]}")
        return found
    if kind == "constant":
        return context().mpc(0, 1) if parts[0] == "i" else +getattr(context(), parts[0])
    operands = [evaluate(part, values) for part in parts]
    try:
        if kind not in _OPERATIONS:
            return _function(kind, number(operands[0]))
        if not all(isinstance(operand, Fraction) for operand in operands):
            operands = [number(operand) for operand in operands]
        value = _OPERATIONS[kind](*operands)
    except ZeroDivisionError as error:
        raise UnreadableError(f"{kind} is undefined here") from error
    except (OverflowError, MemoryError) as error:
        raise TooLargeError(kind) from error
    if isinstance(value, Fraction) and _bits(value) > MAX_BITS:
        raise TooLargeError(f"more than {MAX_BITS} bits")
    return value


def close(first: Any, second: Any) -> bool:
    """Equal: exactly for rationals, to 35 digits otherwise."""
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    first, second = number(first), number(second)
    if context().isinf(first) or context().isinf(second):
        return first == second
    return abs(first - second) <= RELATIVE_TOLERANCE * max(abs(first), abs(second), 1e-5)


def sample_points(*trees: Tree) -> list[dict[str, Fraction]]:
    """Fixed pseudo-random rationals for the symbols: three positive, then three of either sign.

    Where roots, logarithms and broken powers occur only positive ones: their laws are meant to hold for those.
    """
    names = sorted(set().union(*map(symbols_of, trees)))
    generator = random.Random(20)
    lows = (1, 1, 1) if any(map(_has_branches, trees)) else (1, 1, 1, -3000, -3000, -3000)
    return [{name: Fraction(generator.randint(low, 3000) * 2 + 1, 2003) for name in names} for low in lows]


def _has_branches(tree: Tree) -> bool:
    return any(
        node[0] in _LOGARITHMS or (node[0] == "pow" and (node[2][0] != "number" or node[2][1].denominator != 1))
        for node in nodes_of(tree)
    )


def sampled(first: Tree, second: Tree) -> Iterator[tuple[Any, Any]]:
    """Values of both sides, at sample points where symbols occur.

    Raises:
        UnreadableError: a side is undefined at more than all samples but one.
    """
    if not symbols_of(first) | symbols_of(second):
        yield evaluate(first), evaluate(second)
        return
    n_defined = 0
    for values in sample_points(first, second):
        try:
            pair = evaluate(first, values), evaluate(second, values)
        except UnreadableError:
            continue
        n_defined += 1
        yield pair
    if n_defined < 2:
        raise UnreadableError("undefined at every sample")


def same_value(first: Tree, second: Tree) -> bool:
    """Are two expressions equal? Trees without symbols are evaluated, others sampled."""
    return all(close(left, right) for left, right in sampled(first, second))
