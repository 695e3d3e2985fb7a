"""Values of expression trees, exact where rational and to 60 digits elsewhere, and equality by sampling.

Every operation is bounded, so that power towers and factorials of a reply end in `TooLargeError` and not in a hang.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from kvrepro.errors import KvreproError
from kvrepro.graders.expression import Tree
from kvrepro.graders.lexer import UnreadableError

DIGITS = 60
MAX_BITS = 200_000
MAX_FACTORIAL = 20_000
# two values agree if they differ by less than this part of the larger one
RELATIVE_TOLERANCE = 1e-35


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


def symbols_of(tree: Tree) -> set[str]:
    """Names of the free symbols."""
    if tree[0] == "symbol":
        return {tree[1]}
    return set().union(*(symbols_of(part) for part in tree[1:] if isinstance(part, tuple)), set())


def has_constant(tree: Tree, name: str) -> bool:
    """Does pi, e or i occur?"""
    return tree == ("constant", name) or any(has_constant(part, name) for part in tree[1:] if isinstance(part, tuple))


def has_branches(tree: Tree) -> bool:
    """Roots, logarithms and broken powers: laws that hold for positive numbers only are meant to hold."""
    if tree[0] == "root" or (tree[0] == "function" and tree[1] in ("ln", "log", "lg")):
        return True
    if tree[0] == "pow" and (tree[2][0] != "number" or tree[2][1].denominator != 1):
        return True
    return any(has_branches(part) for part in tree[1:] if isinstance(part, tuple))


def evaluate(tree: Tree, values: Mapping[str, Fraction] | None = None) -> Any:
    """Value as Fraction where exact, else an mpmath number.

    Raises: UnreadableError for a symbol without value or an undefined operation, TooLargeError beyond the bounds.
    """
    operator = tree[0]
    if operator == "number":
        return tree[1]
    if operator == "symbol":
        if tree[1] == "infinity":
            return context().inf
        if values is None or tree[1] not in values:
            raise UnreadableError(f"free symbol {tree[1]}")
        return values[tree[1]]
    if operator == "constant":
        return {"pi": context().pi, "e": context().e, "i": context().mpc(0, 1)}[tree[1]] * 1
    if operator == "function":
        return _function(tree[1], tree[2], values)
    operands = [evaluate(part, values) for part in tree[1:]]
    try:
        return _check(_OPERATIONS[operator](*operands))
    except ZeroDivisionError as error:
        raise UnreadableError("division by zero") from error
    except (OverflowError, MemoryError) as error:
        raise TooLargeError(operator) from error


def _check(value: Any) -> Any:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise TooLargeError(f"more than {MAX_BITS} bits")
    elif isinstance(value, int):
        return _check(Fraction(value))
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


def _magnitude(value: Any) -> float:
    """log2 of the absolute value, roughly; 0 for 0."""
    if isinstance(value, Fraction):
        return float(value.numerator.bit_length() - value.denominator.bit_length())
    size = abs(value)
    return float(context().mag(size)) if size and not context().isinf(size) else 0.0


def _pow(base: Any, exponent: Any) -> Any:
    if _magnitude(exponent) > 40:
        raise TooLargeError("exponent")
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        if base == 0 and exponent <= 0:
            raise UnreadableError("0 to a power that is not positive")
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) != 1 and size * abs(exponent.numerator) > MAX_BITS:
            raise TooLargeError("power")
        return base ** int(exponent)
    if (abs(_magnitude(base)) + 1) * 2 ** _magnitude(exponent) > 1e7:
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


def _real(value: Any) -> Any:
    if isinstance(value, Fraction):
        return value
    if getattr(value, "imag", 0) != 0:
        raise UnreadableError("a real number is needed here")
    return value.real


_OPERATIONS = {
    "add": _add,
    "mul": _mul,
    "div": _div,
    "neg": lambda x: -x,
    "pow": _pow,
    "root": _root,
    "abs": lambda x: abs(x),
    "factorial": _factorial,
    "binomial": _binomial,
    "degrees": lambda x: x,
    "floor": lambda x: Fraction(math.floor(x)) if isinstance(x, Fraction) else Fraction(int(context().floor(_real(x)))),
    "ceil": lambda x: Fraction(math.ceil(x)) if isinstance(x, Fraction) else Fraction(int(context().ceil(_real(x)))),
}


def _function(name: str, argument: Tree, values: Mapping[str, Fraction] | None) -> Any:
    in_degrees = argument[0] == "degrees"
    value = number(evaluate(argument, values))
    mp = context()
    if name in ("sin", "cos", "tan", "cot", "sec", "csc") and in_degrees:
        value = value * mp.pi / 180
    if (name not in ("ln", "log", "lg") and _magnitude(value) > 200) or (
        name in ("exp", "sinh", "cosh", "tanh") and _magnitude(value) > 24
    ):
        raise TooLargeError(name)
    if name in ("ln", "log", "lg"):
        if value == 0:
            raise UnreadableError("logarithm of 0")
        # log without a base is left to both readings; `same_value` compares equal names
        return mp.ln(value) if name == "ln" else mp.log10(value)
    table = {
        "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": mp.cot, "sec": mp.sec, "csc": mp.csc, "arcsin": mp.asin,
        "arccos": mp.acos, "arctan": mp.atan, "sinh": mp.sinh, "cosh": mp.cosh, "tanh": mp.tanh, "exp": mp.exp,
    }  # fmt: skip
    try:
        return table[name](value)
    except (ZeroDivisionError, ValueError) as error:
        raise UnreadableError(f"{name} is undefined here") from error


def close(first: Any, second: Any) -> bool:
    """Equal: exactly for rationals, to 35 digits otherwise."""
    if isinstance(first, Fraction) and isinstance(second, Fraction):
        return first == second
    first, second = number(first), number(second)
    mp = context()
    if mp.isinf(first) or mp.isinf(second):
        return first == second
    return abs(first - second) <= RELATIVE_TOLERANCE * max(abs(first), abs(second)) or (
        abs(first) < 1e-40 and abs(second) < 1e-40
    )


def sample_points(names: set[str], n_points: int = 6) -> list[dict[str, Fraction]]:
    """Fixed pseudo-random rationals for the symbols; the first half positive, then of either sign."""
    generator = random.Random(20)
    points = []
    for i in range(n_points):
        low = 1 if i < n_points // 2 else -3000
        points.append({name: Fraction(generator.randint(low, 3000) * 2 + 1, 2003) for name in sorted(names)})
    return points


def same_value(first: Tree, second: Tree) -> bool:
    """Are two expressions equal? Trees without symbols are evaluated, others sampled.

    Samples where a side is undefined are skipped; at least two must remain.
    """
    names = (symbols_of(first) | symbols_of(second)) - {"infinity"}
    if not names:
        return close(evaluate(first), evaluate(second))
    if (symbols_of(first) - {"infinity"}) != (symbols_of(second) - {"infinity"}) and len(names) > 12:
        return False
    used = 0
    n_points = 3 if has_branches(first) or has_branches(second) else 6
    for values in sample_points(names)[:n_points]:
        try:
            left, right = evaluate(first, values), evaluate(second, values)
        except TooLargeError:
            raise
        except UnreadableError:
            continue
        if not close(left, right):
            return False
        used += 1
    if used < 2:
        raise UnreadableError("undefined at every sample")
    return True
