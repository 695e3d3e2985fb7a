"""Mathematical expressions of answers as trees: a small LaTeX reader that executes nothing and is bounded in size.

A tree is a tuple `(operator, *operands)`; leaves are `("number", Fraction)`, `("symbol", name)`, `("constant", name)`.
What the reader does not know raises `UnreadableError`, and the caller asks math-verify instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction

from kvrepro.graders.cleaning import rewritten
from kvrepro.graders.words import word_set

MAX_TOKENS = 800
MAX_DEPTH = 60
FUNCTIONS = word_set("sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp")
_GREEK = word_set("""
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega Gamma Delta
Theta Lambda Xi Sigma Phi Psi Omega ell hbar
""")
_INFINITY = ("infty", "infinity", "inf")
_WORDS = FUNCTIONS | {"sqrt", "pi", *_INFINITY}
_BEGINS_FACTOR = FUNCTIONS | _GREEK | {"frac", "binom", "sqrt", "pi", "infty", "{", "lfloor", "lceil"}
_OPENERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|\\[%$!{}|&]|[A-Za-z]+|\S)")
_INDEX = r"\s*(?:\{([^{}]*)\}|(\w))\s*"
# numbers of ways to choose (C) or to arrange (P, A) k of n things, in the notations of school books
_SELECTIONS = (
    (re.compile(rf"(?:\{{\}})?[_^]{_INDEX}([CPA])\s*_{_INDEX}"), (3, 1, 4)),
    (re.compile(rf"(?<![A-Za-z\\])([CPA])\s*_{_INDEX}\^{_INDEX}"), (1, 2, 4)),
    (re.compile(rf"(?<![A-Za-z\\])([CPA])\s*\^{_INDEX}_{_INDEX}"), (1, 4, 2)),
    (re.compile(r"(?<![A-Za-z\\])([CPA])\s*\(([^(),]+)(),([^(),]+)()\)"), (1, 2, 4)),
)
# what is written in several ways, in the one that the reader knows; `\frac43` and `\sqrt2` take one digit each
_REWRITTEN = (
    (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)", r"\\circ "),
    (r"(?:\{|^)([^{}]*)\\choose(?![A-Za-z])([^{}]*)(?:\}|$)", r"\\binom{\1}{\2}"),
    (r"(\\(?:frac|sqrt|binom))\s*(\d)", r"\1{\2}"),
    (r"(\\(?:frac|binom)\s*(?:\{(?:[^{}]|\{[^{}]*\})*\}|[A-Za-z]))\s*(\d)(?!\d)", r"\1{\2}"),
)
_REPEATING = re.compile(r"(\d+)\.(\d*)\s*\\(?:overline|dot)\s*\{(\d+)\}")

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
    text = rewritten(text, _REWRITTEN)
    for pattern, groups in _SELECTIONS:
        text = pattern.sub(lambda match, groups=groups: _selections(match, *groups), text)
    tokens: list[str] = []
    for token in _TOKEN.findall(_REPEATING.sub(_repeating, text)):
        # a word is the name of a function or a product of letters
        tokens.extend(["\\" + token] if token in _WORDS else token if token.isalpha() else [token])
    if len(tokens) > MAX_TOKENS:
        raise UnreadableError("expression too long")
    reader = _Reader(tokens)
    tree = reader.sum()
    if reader.peek():
        raise UnreadableError(f"unexpected {reader.peek()!r}")
    return tree


def _selections(match: re.Match[str], name: int, n: int, k: int) -> str:
    first, second = match[n] or match[n + 1], match[k] or match[k + 1]
    if match[name] == "C":
        return rf"\binom{{{first}}}{{{second}}}"
    # with other indices than numbers it is a power of a variable
    return rf"\frac{{({first})!}}{{({first}-{second})!}}" if (first + second).isdigit() else match[0]


def _repeating(match: re.Match[str]) -> str:
    period = Fraction(int(match[3]), (10 ** len(match[3]) - 1) * 10 ** len(match[2]))
    return f"({Fraction(match[1] + '.' + (match[2] or '0')) + period})"


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
        self.is_argument = False

    def peek(self) -> str:
        """The next token; empty past the end."""
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def accept(self, *expected: str) -> str:
        """The next token if it is one of these, else nothing."""
        token = self.peek()
        self.position += token in expected
        return token if token in expected else ""

    def take(self, expected: str) -> None:
        """The next token, which must be this one."""
        if not self.accept(expected):
            raise UnreadableError(f"expected {expected!r}, found {self.peek()!r}")

    def sum(self) -> Tree:
        """Products joined by plus and minus."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError("nested too deeply")
        tree = self.product()
        while sign := self.accept("+", "-"):
            right = self.product()
            tree = ("add", tree, right if sign == "+" else ("neg", right))
        self.depth -= 1
        return tree

    def product(self) -> Tree:
        """Factors joined by a sign or side by side; a whole number before a proper fraction is a mixed number."""
        if sign := self.accept("+", "-"):
            return ("neg", self.product()) if sign == "-" else self.product()
        tree = self.factor()
        while True:
            if token := self.accept("*", "\\cdot", "\\times", "/", "\\div", ":"):
                tree = ("mul" if token in ("*", "\\cdot", "\\times") else "div", tree, self.signed(self.factor))
            elif self.begins_factor():
                left, token = self.tokens[self.position - 1], self.peek()
                # `3 4` and `x2` are no products that anybody writes
                if (token[0].isdigit() or token[0] == ".") and left[0].isalnum():
                    raise UnreadableError(f"{left} next to {token}")
                right = self.factor()
                tree = ("add" if left.isdigit() and _is_mixed(tree, right) else "mul", tree, right)
            else:
                return tree

    def signed(self, read: Callable[[], Tree]) -> Tree:
        """What stands behind any number of signs."""
        if sign := self.accept("+", "-"):
            return ("neg", self.signed(read)) if sign == "-" else self.signed(read)
        return read()

    def begins_factor(self) -> bool:
        """May a factor begin here, so that standing side by side means a product?"""
        token = self.peek() or " "
        if token[0] == "\\":
            return token[1:] in _BEGINS_FACTOR
        return token[0].isalnum() or token[0] in "([{." or (token == "|" and self.bars == 0)

    def factor(self) -> Tree:
        """An atom with what is written behind it: powers, factorials, percent, degrees."""
        tree = self.atom()
        while token := self.accept("^", "!", "%", "\\%", "\\circ"):
            if token == "^":
                tree = ("pow", tree, self.signed(self.atom))
            elif token in ("%", "\\%"):
                tree = ("div", tree, ("number", Fraction(100)))
            elif token == "!":
                tree = ("factorial", tree)
            elif self.is_argument:
                # inside a function a degree is pi/180; alone it is only a unit
                tree = ("div", ("mul", tree, ("constant", "pi")), ("number", Fraction(180)))
        return tree

    def atom(self) -> Tree:
        """A number, a symbol, a function or a group."""
        token = self.accept(self.peek()) or " "
        name = token.removeprefix("\\")
        if token[0].isdigit() or (token[0] == "." and len(token) > 1):
            return ("number", Fraction(token))
        if token in _OPENERS or token in ("|", "\\|"):
            bars, self.bars = self.bars, (0 if token in _OPENERS else self.bars + 1)
            tree = self.sum()
            self.bars = bars
            self.take(_OPENERS.get(token, token))
            return tree if token in _OPENERS else ("abs", tree)
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self.take("\\r" + name[1:])
            return (name[1:], tree)
        if name in ("frac", "binom"):
            return ("div" if name == "frac" else "binomial", self.signed(self.atom), self.signed(self.atom))
        if name == "sqrt":
            degree = self.atom() if self.peek() == "[" else ("number", Fraction(2))
            return ("pow", self.signed(self.atom), ("div", ("number", Fraction(1)), degree))
        return self.function(name) if name in FUNCTIONS else self.symbol(name)

    def function(self, name: str) -> Tree:
        """Argument, power and base of a named function."""
        power = base = None
        while token := self.accept("^", "_"):
            if token == "^":
                power = self.signed(self.atom)
            else:
                base = self.atom()
        outer, self.is_argument = self.is_argument, True
        if self.peek() in ("(", "[", "{"):
            argument = self.atom()
        else:
            argument = self.factor()
            while self.begins_factor() and self.peek()[1:] not in FUNCTIONS:
                argument = ("mul", argument, self.factor())
        self.is_argument = outer
        if power == ("neg", ("number", Fraction(1))):
            return ("arc" + name, argument)
        tree = (name, argument) if base is None else ("div", ("ln", argument), ("ln", base))
        return tree if power is None else ("pow", tree, power)

    def symbol(self, name: str) -> Tree:
        """A letter with its index; pi, i and e are constants."""
        if name in _INFINITY:
            return ("symbol", "infinity")
        if name in ("pi", "i") or (name == "e" and self.peek() != "_"):
            return ("constant", name)
        if name not in _GREEK and not (len(name) == 1 and name.isalpha()):
            raise UnreadableError(f"unknown {name!r}")
        return ("symbol", name + ("_" + "".join(map(str, self.atom()[1:])) if self.accept("_") else ""))


def _is_mixed(left: Tree, right: Tree) -> bool:
    """`1\\frac{4}{5}` is one and four fifths: a whole number directly before a proper numeric fraction."""
    if left[0] != "number" or left[1].denominator != 1 or right[0] != "div" or right[1][0] != "number":
        return False
    return right[2][0] == "number" and 0 < right[1][1] < right[2][1] and right[1][1].denominator == 1
