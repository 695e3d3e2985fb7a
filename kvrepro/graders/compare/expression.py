"""Mathematical expressions of answers as trees: a small LaTeX reader that executes nothing and is bounded in size.

A tree is a tuple `(operator, *operands)`; leaves are `("number", Fraction)`, `("symbol", name)` and `("constant", name)`.
What the reader does not know raises `UnreadableError`, and the caller asks math-verify instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from kvrepro.graders.words import word_set

MAX_TOKENS = 800
MAX_DEPTH = 60
FUNCTIONS = word_set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp")
_GREEK = word_set("""
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega Gamma Delta Theta
Lambda Xi Sigma Phi Psi Omega ell hbar
""")
_INFINITY = ("infty", "infinity", "inf")
_WORDS = FUNCTIONS | {"sqrt", "pi", *_INFINITY}
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|\\[%$!{}|&]|[A-Za-z]+|\S)")
# `\frac43`, `\sqrt2` and `\frac{1}2` take one digit each
_FIRST_DIGIT = re.compile(r"(\\(?:frac|sqrt|binom))\s*(\d)")
_SECOND_DIGIT = re.compile(r"(\\(?:frac|binom)\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|[A-Za-z]))\s*(\d)(?!\d)")
_BEGINS_FACTOR = FUNCTIONS | _GREEK | {"frac", "binom", "sqrt", "pi", "infty", "{", "lfloor", "lceil"}
_OPENERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_WHOLE_TWO = ("number", Fraction(2))

Tree = tuple


class UnreadableError(ValueError):
    """Not an expression that this reader knows."""


def read_expression(text: str) -> Tree:
    """Tree of one scalar expression given as cleaned text.

    Raises:
        UnreadableError: prose, rows, too many tokens, or anything that the reader does not know.
    """
    if r"\text" in text or "\\\\" in text:
        raise UnreadableError("text inside an expression")
    text = _SECOND_DIGIT.sub(r"\1{\2}", _FIRST_DIGIT.sub(r"\1{\2}", text))
    tokens: list[str] = []
    for token in _TOKEN.findall(text):
        # a word is the name of a function or a product of letters
        tokens.extend(["\\" + token] if token in _WORDS else token if token.isalpha() else [token])
    if len(tokens) > MAX_TOKENS:
        raise UnreadableError("expression too long")
    reader = _Reader(tokens)
    tree = reader.sum()
    if reader.peek():
        raise UnreadableError(f"unexpected {reader.peek()!r}")
    return tree


def nodes_of(tree: Tree) -> Iterator[Tree]:
    """The tree and everything below it."""
    yield tree
    for part in tree[1:]:
        if isinstance(part, tuple):
            yield from nodes_of(part)


def symbols_of(tree: Tree) -> set[str]:
    """Names of the free symbols, infinity apart."""
    return {node[1] for node in nodes_of(tree) if node[0] == "symbol"} - {"infinity"}


class _Reader:
    """Position in the tokens of one expression, and what may stand there."""

    def __init__(self, tokens: list[str]):
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.bars = 0

    def peek(self, ahead: int = 0) -> str:
        """Token `ahead` of the next one; empty past the end."""
        i = self.position + ahead
        return self.tokens[i] if i < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        """The next token, which must be `expected` where that is given."""
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise UnreadableError(f"expected {expected!r}, found {token!r}")
        self.position += 1
        return token

    def sum(self) -> Tree:
        """Products joined by plus and minus."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        tree = self.product()
        while self.peek() in ("+", "-"):
            operator = self.take()
            right = self.product()
            tree = ("add", tree, right if operator == "+" else ("neg", right))
        if self.peek() == "\\choose":
            self.take()
            tree = ("binomial", tree, self.sum())
        self.depth -= 1
        return tree

    def product(self) -> Tree:
        """Factors joined by a sign or side by side; a whole number before a proper fraction is a mixed number."""
        if self.peek() in ("+", "-"):
            sign, tree = self.take(), self.product()
            return ("neg", tree) if sign == "-" else tree
        tree = self.factor()
        while token := self.peek():
            if token in ("*", "\\cdot", "\\times", "/", "\\div", ":"):
                operator = "mul" if self.take() in ("*", "\\cdot", "\\times") else "div"
                tree = (operator, tree, self.signed())
            elif self.begins_factor(token):
                left = self.tokens[self.position - 1]
                # `3 4` and `x2` are no products that anybody writes
                if (token[0].isdigit() or token[0] == ".") and left[0].isalnum():
                    raise UnreadableError(f"{left} next to {token}")
                right = self.factor()
                tree = ("add" if left.isdigit() and _is_mixed(tree, right) else "mul", tree, right)
            else:
                break
        return tree

    def signed(self) -> Tree:
        """A factor behind any number of signs."""
        if self.peek() not in ("+", "-"):
            return self.factor()
        sign, tree = self.take(), self.signed()
        return ("neg", tree) if sign == "-" else tree

    def begins_factor(self, token: str) -> bool:
        """May a factor begin here, so that standing side by side means a product?"""
        if token[0] == "\\":
            return token[1:] in _BEGINS_FACTOR
        return token[0].isalnum() or token[0] in "([{." or (token == "|" and self.bars == 0)

    def factor(self) -> Tree:
        """An atom with what is written behind it: powers, factorials, percent, degrees, primes."""
        tree = self.atom()
        while (token := self.peek()) in ("^", "!", "%", "\\%", "\\circ", "'"):
            self.take()
            if token == "^" and (self.peek() == "\\circ" or self.tokens[self.position :][:3] == ["{", "\\circ", "}"]):
                self.position += 1 if self.peek() == "\\circ" else 3
                tree = ("degrees", tree)
            elif token == "^":
                tree = ("pow", tree, self.group())
            elif token == "!":
                tree = ("factorial", tree)
            elif token == "\\circ":
                tree = ("degrees", tree)
            elif token == "'":
                if tree[0] != "symbol":
                    raise UnreadableError("prime")
                tree = ("symbol", tree[1] + "'")
            else:
                tree = ("div", tree, ("number", Fraction(100)))
        return tree

    def group(self) -> Tree:
        """What `^`, `\\frac` and the like take: a braced group, or one atom behind any signs."""
        if self.peek() == "-":
            self.take()
            return ("neg", self.group())
        return self.atom()

    def atom(self) -> Tree:
        """A number, a symbol, a function or a group."""
        token = self.take()
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return self.number(token)
        if token in ("_", "^") or (token == "{" and self.peek() == "}"):
            return self.prefixed_selection(token)
        if token in _OPENERS:
            bars, self.bars = self.bars, 0
            tree = self.sum()
            self.bars = bars
            self.take(_OPENERS[token])
            return tree
        if token in ("|", "\\|"):
            self.bars += 1
            tree = self.sum()
            self.bars -= 1
            self.take(token)
            return ("abs", tree)
        name = token.removeprefix("\\")
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self.take("\\r" + name[1:])
            return (name[1:], tree)
        if name in ("frac", "binom"):
            return ("div" if name == "frac" else "binomial", self.group(), self.group())
        if name == "sqrt":
            return self.root()
        if name in FUNCTIONS:
            return self.function(name)
        return self.symbol(name)

    def number(self, token: str) -> Tree:
        """A decimal, with its repeating part if one follows."""
        if self.peek() == "." and self.peek(1) == "\\overline":
            token += self.take()
        if "." not in token or self.peek() not in ("\\overline", "\\dot"):
            return ("number", Fraction(token))
        self.take()
        digits = self.take("{") and self.take()
        self.take("}")
        if not digits.isdigit():
            raise UnreadableError("repeating part")
        period = Fraction(int(digits), (10 ** len(digits) - 1) * 10 ** len(token.split(".")[1]))
        return ("number", Fraction(token.rstrip(".")) + period)

    def root(self) -> Tree:
        """What follows `\\sqrt`, as a power."""
        degree: Tree = _WHOLE_TWO
        if self.peek() == "[":
            degree = self.atom()
        return ("pow", self.atom(), ("div", ("number", Fraction(1)), degree))

    def function(self, name: str) -> Tree:
        """Argument, power and base of a named function."""
        power: Tree | None = None
        base: Tree | None = None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                power = self.group()
            else:
                base = self.group()
        if self.peek() in ("(", "[", "{"):
            argument = self.atom()
        else:
            argument = self.factor()
            while (token := self.peek()) and self.begins_factor(token) and token[1:] not in FUNCTIONS:
                argument = ("mul", argument, self.factor())
        if power == ("neg", ("number", Fraction(1))):
            return ("function", "arc" + name, argument)
        tree = ("function", name, argument)
        if base is not None:
            tree = ("div", ("function", "ln", argument), ("function", "ln", base))
        return tree if power is None else ("pow", tree, power)

    def symbol(self, name: str) -> Tree:
        """A letter with its index; pi, i and e are constants, some letters count selections."""
        if name in _INFINITY:
            return ("symbol", "infinity")
        if name in ("pi", "i") or (name == "e" and self.peek() != "_"):
            return ("constant", name)
        if name not in _GREEK and not (len(name) == 1 and name.isalpha()):
            raise UnreadableError(f"unknown {name!r}")
        if name in ("C", "P", "A") and (tree := self.selection(name)) is not None:
            return tree
        if self.peek() == "_":
            self.take()
            name += "_" + "".join(map(str, self.group()[1:]))
        return ("symbol", name)

    def selection(self, name: str) -> Tree | None:
        """`C(10,3)`, `C_{10}^{3}`, `C^{3}_{10}` after their letter; None, with nothing taken, for any other symbol.

        `A_6^3` and `P_6^3` are arrangements where both indices are numbers, and powers of a variable otherwise.
        """
        start, opening = self.position, self.peek()
        if opening == "(":
            self.take()
            n = self.sum()
            if self.peek() == ",":
                self.take()
                k = self.sum()
                self.take(")")
                return _selections(name, n, k)
        elif opening in ("_", "^"):
            self.take()
            first = self.group()
            if self.peek() in ("_", "^") and self.peek() != opening:
                self.take()
                second = self.group()
                if name == "C" or first[0] == second[0] == "number":
                    return _selections(name, *((first, second) if opening == "_" else (second, first)))
        self.position = start
        return None

    def prefixed_selection(self, token: str) -> Tree:
        """`{}_{10}C_{3}`, `^{10}P_3`; `token` is the one already taken."""
        if token == "{":
            self.take("}")
            self.take()
        n, name = self.group(), self.take()
        self.take("_")
        if name not in ("C", "P", "A"):
            raise UnreadableError(f"{name!r} with a number in front")
        return _selections(name, n, self.group())


def _selections(name: str, n: Tree, k: Tree) -> Tree:
    """Number of ways to choose (C) or to arrange (P, A) k of n things."""
    if name == "C":
        return ("binomial", n, k)
    return ("div", ("factorial", n), ("factorial", ("add", n, ("neg", k))))


def _is_mixed(left: Tree, right: Tree) -> bool:
    """`1\\frac{4}{5}` is one and four fifths: a whole number directly before a proper numeric fraction."""
    if left[0] != "number" or left[1].denominator != 1 or right[0] != "div" or right[1][0] != "number":
        return False
    return right[2][0] == "number" and 0 < right[1][1] < right[2][1] and right[1][1].denominator == 1
