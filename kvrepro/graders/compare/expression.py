"""Mathematical expressions of answers as trees: a small LaTeX reader that executes nothing and is bounded in size.

A tree is a tuple `(operator, *operands)`; leaves are `("number", Fraction)` and `("symbol", name)`. What the reader
does not know raises `UnreadableError`, and the caller asks math-verify instead.
"""

from __future__ import annotations

from fractions import Fraction

from kvrepro.graders.cleaning import clean
from kvrepro.graders.compare.lexer import FUNCTIONS, GREEK, LISTS, UnreadableError, tokens_of
from kvrepro.graders.compare.selections import read_named, read_prefixed, selections

MAX_DEPTH = 60

_PRODUCT = {"*", "\\cdot", "\\times"}
_QUOTIENT = {"/", "\\div", ":"}
_OPENERS = {"(": ")", "[": "]", "{": "}", "\\{": "\\}"}

Tree = tuple


def read_expression(text: str) -> Tree:
    """Tree of one scalar expression given as cleaned text."""
    reader = Reader(tokens_of(text))
    tree = reader.sum()
    if reader.position != len(reader.tokens):
        raise UnreadableError(f"unexpected {reader.peek()!r}")
    return tree


def read_raw(text: str) -> Tree:
    """Tree of one expression as a model or a data set wrote it."""
    return read_expression(clean(text))


class Reader:
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
        """Factors joined by a sign or side by side; a number before a proper fraction is a mixed number."""
        if self.peek() in ("+", "-"):
            sign = self.take()
            inner = self.product()
            return ("neg", inner) if sign == "-" else inner
        tree = self.factor()
        while True:
            token = self.peek()
            if token in _PRODUCT or token in _QUOTIENT:
                self.take()
                sign = 1
                while self.peek() in ("+", "-"):
                    sign *= -1 if self.take() == "-" else 1
                right = self.factor()
                right = ("neg", right) if sign < 0 else right
                tree = ("mul", tree, right) if token in _PRODUCT else ("div", tree, right)
            elif token in ("C", "P") and tree[0] == "number" and self.peek(1).isdigit():
                # 10C3
                self.take()
                tree = selections(token, tree, self.atom())
            elif self.starts_factor(token):
                right_is_number = token[0].isdigit() or token[0] == "."
                left = self.tokens[self.position - 1]
                # `3 4` and `x2` are no products that anybody writes
                if right_is_number and left[0].isalnum():
                    raise UnreadableError(f"{left} next to {token}")
                right = self.factor()
                tree = ("add", tree, right) if _is_mixed(tree, right, left) else ("mul", tree, right)
            else:
                return tree

    def starts_factor(self, token: str) -> bool:
        """May a factor begin here, so that standing side by side means a product?"""
        if not token or token in ("+", "-", ")", "]", "}", "\\}", ",", "=", "<", ">", "&", ";"):
            return False
        if token == "|":
            return self.bars == 0
        if token[0] == "\\":
            name = token[1:]
            return (
                name in FUNCTIONS or name in GREEK or name in ("frac", "binom", "pi", "infty", "{", "lfloor", "lceil")
            )
        return token[0].isalnum() or token in "([{." or token[0] == "."

    def factor(self) -> Tree:
        """An atom with what is written behind it: powers, factorials, percent, degrees, primes."""
        tree = self.atom()
        while True:
            token = self.peek()
            if token == "^":
                self.take()
                if self.peek() == "\\circ" or self.tokens[self.position : self.position + 3] == ["{", "\\circ", "}"]:
                    self.position += 1 if self.peek() == "\\circ" else 3
                    tree = ("degrees", tree)
                    continue
                if self.peek() == "'":
                    raise UnreadableError("prime")
                tree = ("pow", tree, self.group())
            elif token == "!":
                self.take()
                tree = ("factorial", tree)
            elif token in ("%", "\\%"):
                self.take()
                tree = ("div", tree, ("number", Fraction(100)))
            elif token == "\\circ":
                self.take()
                tree = ("degrees", tree)
            elif token == "'":
                self.take()
                if tree[0] != "symbol":
                    raise UnreadableError("prime")
                tree = ("symbol", tree[1] + "'")
            else:
                return tree

    def group(self) -> Tree:
        """What `^`, `\\frac` and the like take: a braced group, or one sign-less atom."""
        if self.peek() == "{":
            self.take()
            tree = self.sum()
            self.take("}")
            return tree
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
            return read_prefixed(self, token)
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
        if token in ("\\lfloor", "\\lceil"):
            tree = self.sum()
            self.take("\\r" + token[2:])
            return ("floor" if token == "\\lfloor" else "ceil", tree)
        if token == "\\frac":
            return ("div", self.group(), self.group())
        if token == "\\binom":
            return ("binomial", self.group(), self.group())
        if token == "\\sqrt":
            return self.root()
        if token in ("\\infty", "\\infinity", "\\inf"):
            return ("symbol", "infinity")
        if token == "\\pi":
            return ("constant", "pi")
        if token[0] == "\\" and token[1:] in FUNCTIONS:
            return self.function(token[1:])
        if token[0] == "\\" and token[1:] in GREEK:
            return self.symbol(token[1:])
        if token.isalpha() and len(token) == 1:
            return self.symbol(token)
        raise UnreadableError(f"unknown {token!r}")

    def number(self, token: str) -> Tree:
        """A decimal, with its repeating part if one follows."""
        value = Fraction(token)
        if (self.peek() in ("\\overline", "\\dot") and "." in token) or (
            self.peek() == "." and self.peek(1) == "\\overline"
        ):
            if self.peek() == ".":
                self.take()
                token += "."
            self.take()
            digits = self.take("{") and self.take()
            self.take("}")
            if not digits.isdigit():
                raise UnreadableError("repeating part")
            decimals = len(token.split(".")[1])
            return (
                "number",
                Fraction(token.rstrip(".")) + Fraction(int(digits), (10 ** len(digits) - 1) * 10**decimals),
            )
        return ("number", value)

    def root(self) -> Tree:
        """What follows `\\sqrt`."""
        degree: Tree = ("number", Fraction(2))
        if self.peek() == "[":
            self.take()
            degree = self.sum()
            self.take("]")
        radicand = self.group() if self.peek() != "(" else self.atom()
        return ("root", degree, radicand)

    def function(self, name: str) -> Tree:
        """Argument, power and base of a named function."""
        power: Tree | None = None
        base: Tree | None = None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                power = self.group()
            else:
                base = self.group()
        if name in LISTS:
            return self.of_list(name)
        if name == "det":
            raise UnreadableError(name)
        if self.peek() in ("(", "[", "{"):
            argument = self.atom()
        else:
            argument = self.factor()
            while self.starts_factor(self.peek()) and self.peek()[1:] not in FUNCTIONS - {"sqrt"}:
                argument = ("mul", argument, self.factor())
        if power == ("neg", ("number", Fraction(1))):
            if name not in ("sin", "cos", "tan"):
                raise UnreadableError(f"{name}^-1")
            return ("function", "arc" + name, argument)
        tree = ("function", name, argument)
        if base is not None:
            if name != "log":
                raise UnreadableError(f"{name} with a base")
            tree = ("div", ("function", "ln", argument), ("function", "ln", base))
        return tree if power is None else ("pow", tree, power)

    def of_list(self, name: str) -> Tree:
        """gcd, lcm, max or min of a list in brackets."""
        closing = _OPENERS[self.take() if self.peek() in _OPENERS else "("]
        operands = [self.sum()]
        while self.peek() == ",":
            self.take()
            operands.append(self.sum())
        self.take(closing)
        return (name, *operands)

    def symbol(self, name: str) -> Tree:
        """A letter with its index; i and e are constants, some letters count selections."""
        if (tree := read_named(self, name)) is not None:
            return tree
        if name == "i":
            return ("constant", "i")
        if name == "e" and self.peek() != "_":
            return ("constant", "e")
        if self.peek() == "_":
            self.take()
            lower = self.group()
            name += "_" + _spell(lower)
        return ("symbol", name)


def _spell(tree: Tree) -> str:
    return str(tree[1]) if tree[0] in ("number", "symbol", "constant") else "".join(map(str, tree))


def _is_mixed(left: Tree, right: Tree, left_token: str) -> bool:
    """`1\\frac{4}{5}` is one and four fifths: a whole number directly before a proper numeric fraction."""
    if left[0] != "number" or left[1].denominator != 1 or not left_token.isdigit() or right[0] != "div":
        return False
    top, bottom = right[1], right[2]
    return top[0] == bottom[0] == "number" and 0 < top[1] < bottom[1] and top[1].denominator == 1
