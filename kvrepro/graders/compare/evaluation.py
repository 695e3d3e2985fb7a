"""Values of expression trees, exact where rational and to 60 digits elsewhere, and equality by sampling."""

from __future__ import annotations

import random
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from kvrepro.graders.compare.arithmetic import OPERATIONS, TooLargeError, check, context, magnitude, number
from kvrepro.graders.compare.expression import Tree
from kvrepro.graders.compare.lexer import UnreadableError

# two values agree if they differ by less than this part of the larger one
RELATIVE_TOLERANCE = 1e-35


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
        return check(OPERATIONS[operator](*operands))
    except ZeroDivisionError as error:
        raise UnreadableError("division by zero") from error
    except (OverflowError, MemoryError) as error:
        raise TooLargeError(operator) from error


def _in_radians(tree: Tree) -> Tree:
    """Inside a function a degree is pi/180; alone it is only a unit."""
    parts = tuple(_in_radians(part) if isinstance(part, tuple) else part for part in tree[1:])
    if tree[0] == "degrees":
        return ("div", ("mul", parts[0], ("constant", "pi")), ("number", Fraction(180)))
    return (tree[0], *parts)


def _function(name: str, argument: Tree, values: Mapping[str, Fraction] | None) -> Any:
    value = number(evaluate(_in_radians(argument), values))
    mp = context()
    if (name not in ("ln", "log", "lg") and magnitude(value) > 200) or (
        name in ("exp", "sinh", "cosh", "tanh") and magnitude(value) > 24
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
