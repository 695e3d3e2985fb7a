"""Bounded arithmetic: exact for fractions, 60 digits elsewhere, and never a number that would take for ever.

Every operation is bounded, so that power towers and factorials of a reply end in `TooLargeError` and not in a hang.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from kvrepro.errors import KvreproError
from kvrepro.graders.compare.lexer import UnreadableError

DIGITS = 60
MAX_BITS = 200_000
MAX_FACTORIAL = 20_000


class TooLargeError(UnreadableError):
    """A value beyond every answer that a benchmark asks for."""


def _mp() -> Any:
    try:
        import mpmath
    except ImportError as error:
        raise KvreproError(
            "grading this answer needs mpmath, which comes with math-verify: pip install math-verify"
        ) from error
    context = mpmath.mp.clone()
    context.dps = DIGITS
    return context


_context: Any = None


def context() -> Any:
    """The mpmath context of this process, with `DIGITS` digits."""
    global _context
    if _context is None:
        _context = _mp()
    return _context


def check(value: Any) -> Any:
    """The value, if it is within the bounds."""
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise TooLargeError(f"more than {MAX_BITS} bits")
    elif isinstance(value, int):
        return check(Fraction(value))
    return value


def number(value: Any) -> Any:
    """As an mpmath number."""
    if isinstance(value, Fraction):
        return context().mpf(value.numerator) / value.denominator
    return value


def _both(first: Any, second: Any) -> tuple[Any, Any]:
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first, second
    return number(first), number(second)


def _add(first: Any, second: Any) -> Any:
    first, second = _both(first, second)
    return first + second


def _mul(first: Any, second: Any) -> Any:
    first, second = _both(first, second)
    return first * second


def _div(first: Any, second: Any) -> Any:
    if second == 0:
        raise UnreadableError("division by zero")
    first, second = _both(first, second)
    return first / second


def magnitude(value: Any) -> float:
    """log2 of the absolute value, roughly; 0 for 0."""
    if isinstance(value, Fraction):
        return float(value.numerator.bit_length() - value.denominator.bit_length())
    size = abs(value)
    return float(context().mag(size)) if size and not context().isinf(size) else 0.0


def _pow(base: Any, exponent: Any) -> Any:
    if magnitude(exponent) > 40:
        raise TooLargeError("exponent")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        if base == 0 and exponent <= 0:
            raise UnreadableError("0 to a power that is not positive")
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) != 1 and size * abs(exponent.numerator) > MAX_BITS:
            raise TooLargeError("power")
        return base ** int(exponent)
    if (abs(magnitude(base)) + 1) * 2 ** magnitude(exponent) > 1e7:
        raise TooLargeError("power")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and base < 0 and exponent.denominator % 2:
        # the real branch, as school books mean (-8)^{1/3}
        sign = -1 if exponent.numerator % 2 else 1
        return sign * context().power(number(-base), number(exponent))
    return context().power(number(base), number(exponent))


def _root(degree: Any, radicand: Any) -> Any:
    if degree == 0:
        raise UnreadableError("root of degree 0")
    if isinstance(degree, Fraction) and degree.denominator == 1 and isinstance(radicand, Fraction):
        n = int(degree)
        if n == 2 and radicand >= 0:
            top, bottom = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
            if top * top == radicand.numerator and bottom * bottom == radicand.denominator:
                return Fraction(top, bottom)
        if n == 2:
            return context().sqrt(number(radicand))
        return _pow(radicand, Fraction(1, n))
    return _pow(radicand, _div(Fraction(1), degree))


def _factorial(value: Any) -> Any:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise UnreadableError("factorial of something else than a whole number")
    if value > MAX_FACTORIAL:
        raise TooLargeError("factorial")
    return Fraction(math.factorial(int(value)))


def _binomial(n: Any, k: Any) -> Any:
    if not all(isinstance(x, Fraction) and x.denominator == 1 for x in (n, k)) or n < 0 or k < 0:
        raise UnreadableError("binomial of something else than whole numbers")
    if n > MAX_FACTORIAL:
        raise TooLargeError("binomial")
    return Fraction(math.comb(int(n), int(k)))


def real(value: Any) -> Any:
    """The value, if it has no imaginary part."""
    if isinstance(value, Fraction):
        return value
    if getattr(value, "imag", 0) != 0:
        raise UnreadableError("a real number is needed here")
    return value.real


def _whole(values: tuple[Any, ...]) -> list[int]:
    if not all(isinstance(x, Fraction) and x.denominator == 1 for x in values):
        raise UnreadableError("whole numbers are needed here")
    return [int(x) for x in values]


def _extreme(values: tuple[Any, ...], pick: Callable[..., Any]) -> Any:
    return pick((real(value) for value in values), key=number)


OPERATIONS = {
    "add": _add,
    "mul": _mul,
    "div": _div,
    "neg": lambda x: -x,
    "pow": _pow,
    "root": _root,
    "abs": lambda x: abs(x),
    "gcd": lambda *xs: Fraction(math.gcd(*_whole(xs))),
    "lcm": lambda *xs: Fraction(math.lcm(*_whole(xs))),
    "max": lambda *xs: _extreme(xs, max),
    "min": lambda *xs: _extreme(xs, min),
    "factorial": _factorial,
    "binomial": _binomial,
    "degrees": lambda x: x,
    "floor": lambda x: Fraction(math.floor(x)) if isinstance(x, Fraction) else Fraction(int(context().floor(real(x)))),
    "ceil": lambda x: Fraction(math.ceil(x)) if isinstance(x, Fraction) else Fraction(int(context().ceil(real(x)))),
}
