"""Tokens of mathematical expressions: numbers, commands, single letters."""

from __future__ import annotations

import re

MAX_TOKENS = 800

_FUNCTION_TEXT = """
sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp sqrt det gcd lcm max min
"""
_GREEK_TEXT = """
alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi omega Gamma
Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar
"""
FUNCTIONS = frozenset(_FUNCTION_TEXT.split())
# functions of a list
LISTS = ("gcd", "lcm", "max", "min")
GREEK = frozenset(_GREEK_TEXT.split())
_WORDS = FUNCTIONS | {"pi", "infty", "infinity", "inf"}
_TOKEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+|\\[A-Za-z]+|\\[%$!{}|&]|[A-Za-z]+|\S)")


class UnreadableError(ValueError):
    """Not an expression that this reader knows."""


def tokens_of(text: str) -> list[str]:
    """Split cleaned text; raises UnreadableError for prose, rows, and more than `MAX_TOKENS` tokens."""
    if r"\text" in text or "\\\\" in text:
        raise UnreadableError("text inside an expression")
    tokens: list[str] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise UnreadableError(f"character {text[position]!r}")
        token = match[1]
        # `\frac43` and `\sqrt2` take one digit each, `\frac 59` too
        if token[0].isdigit() and tokens and _takes_digit(tokens):
            token = token[0]
            position = match.start(1) + 1
        else:
            position = match.end()
        tokens.extend(_split_letters(token) if token[0].isalpha() else [token])
        if len(tokens) > MAX_TOKENS:
            raise UnreadableError("expression too long")
    return tokens


def _takes_digit(tokens: list[str]) -> bool:
    last = tokens[-1]
    if last in ("\\frac", "\\sqrt", "\\binom"):
        return True
    if (
        len(tokens) > 1
        and tokens[-2] in ("\\frac", "\\binom")
        and (last.isdigit() or (len(last) == 1 and last.isalpha()))
    ):
        return len(last) == 1
    if last == "}":
        depth, i = 0, len(tokens) - 1
        while i >= 0:
            depth += (tokens[i] == "}") - (tokens[i] == "{")
            if depth == 0:
                return i > 0 and tokens[i - 1] in ("\\frac", "\\binom")
            i -= 1
    return False


def _split_letters(word: str) -> list[str]:
    """`sinx` is sin x, `pi` is one symbol, everything else is a product of letters."""
    if word in _WORDS:
        return ["\\" + word]
    for name in sorted(_WORDS, key=len, reverse=True):
        if len(name) > 1 and word.startswith(name) and len(word) - len(name) <= 1:
            return ["\\" + name, *word[len(name) :]]
    return list(word)
