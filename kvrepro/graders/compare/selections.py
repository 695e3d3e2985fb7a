"""Combinations and arrangements in the notations of school books, read for the expression reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvrepro.graders.compare.lexer import UnreadableError

if TYPE_CHECKING:
    from kvrepro.graders.compare.expression import Reader

NAMES = ("C", "P", "A")
Tree = tuple


def selections(name: str, n: Tree, k: Tree) -> Tree:
    """Number of ways to choose (C) or to arrange (P, A) k of n things."""
    if name == "C":
        return ("binomial", n, k)
    if name not in NAMES:
        raise UnreadableError(f"{name!r} with a number in front")
    return ("div", ("factorial", n), ("factorial", ("add", n, ("neg", k))))


def read_prefixed(reader: Reader, token: str) -> Tree:
    """`{}_{10}C_{3}`, `^{10}P_3`; `token` is the one already taken."""
    if token == "{":
        reader.take("}")
        token = reader.take()
    if token not in ("_", "^"):
        raise UnreadableError(f"{token!r} after an empty group")
    n = reader.group()
    name = reader.take()
    reader.take("_")
    return selections(name, n, reader.group())


def read_named(reader: Reader, name: str) -> Tree | None:
    """`C(10,3)`, `C_{10}^{3}`, `C^{3}_{10}` after their letter; None, with nothing taken, for any other symbol.

    `A_6^3` and `P_6^3` are arrangements where both indices are numbers, and powers of a variable otherwise.
    """
    start = reader.position
    opening = reader.peek()
    if name in NAMES and opening == "(":
        reader.take()
        n = reader.sum()
        if reader.peek() == ",":
            reader.take()
            k = reader.sum()
            reader.take(")")
            return selections(name, n, k)
    elif name in NAMES and opening in ("_", "^"):
        reader.take()
        first = reader.group()
        if reader.peek() in ("_", "^") and reader.peek() != opening:
            reader.take()
            second = reader.group()
            if name == "C" or first[0] == second[0] == "number":
                return selections(name, *((first, second) if opening == "_" else (second, first)))
    reader.position = start
    return None
