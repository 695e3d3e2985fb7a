"""Does an answer equal the gold? Structure first (choice, words, matrix, equation, list, set, interval), then values.

The comparison is exact: no tolerance except for decimals with six or more digits that stand for an exact value, and
no percent slack. What these rules cannot read is left to math-verify (`symbolic`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kvrepro.graders import words
from kvrepro.graders.cleaning import clean, split_top, strip_group
from kvrepro.graders.compare.arithmetic import TooLargeError
from kvrepro.graders.compare.equations import same_chain, same_equation, sides_of, split_chain
from kvrepro.graders.compare.families import same_family
from kvrepro.graders.compare.lexer import UnreadableError
from kvrepro.graders.compare.quantities import same_quantity
from kvrepro.graders.compare.scalars import literal, same_scalar
from kvrepro.graders.compare.sequences import Compare, any_order, same_collection, same_matrix
from kvrepro.graders.compare.sets import named_set, same_set
from kvrepro.graders.compare.shapes import elements, ordered, squeeze
from kvrepro.graders.extract.choice import read_choice

_GOLD_LETTER = re.compile(r"^(?:\\text\{)?\s*\(?\s*([A-K])\s*\)?\s*\}?$")
_LABEL = re.compile(r"^(?:\\text\{)?\s*(?:\(([A-K])\)|([A-K])\s*[).:])\s*\}?\s*[:~]?\s*(?=\S)")
_LEAD = re.compile(
    r"^(?:\\text\{)?\s*(?:therefore|thus|hence|so)?,?\s*(?:(?:the|final|correct|our)\s+)*(?:answer"
    r"|solution|result|value)\b"
    r"[^:={}\d\\]{0,60}?(?:\bis\b|:|=|\bare\b)\s*:?\s*\}?\s*|^\\therefore\s*",
    re.IGNORECASE,
)
_ARROW = re.compile(
    r"\\Rightarrow(?![A-Za-z])|\\to(?![A-Za-z])|=>|->"
    r"|\\text\{[\s,;]*(?:and )?(?:so|thus|hence|therefore|which gives|giving|which means|that is|i\.e\.)[\s,:]*\}"
)
_CONSTANT = re.compile(r"(?<=\S)\s*\+\s*(?:C|c|K|k|\\text\{\s*(?:C|const\.?|constant)\s*\})$")
_FUNCTION_LEFT = re.compile(r"^[A-Za-z](?:_\{?\w+\}?)?'?\s*\(\s*\w\s*\)$")
# measure words of Chinese, Japanese and Korean behind a number
_COUNTER = re.compile(r"(?<=[\d})])\s*[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]{1,6}$")
_NO_SOLUTION = frozenset([
    "no solution", "no solutions", "none", "empty set", "the empty set", "no real solutions", "no real solution",
])  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """`equal` is None where these rules cannot read one of the sides."""

    equal: bool | None
    rule: str


def same_answer(gold: str, answer: str, is_integer: bool = False) -> Verdict:
    """Compare two answers as written by a data set and a model."""
    return _compare(clean(gold), _without_lead(clean(answer)), is_integer)


def _without_lead(text: str) -> str:
    text = _LEAD.sub("", text).strip()
    if len(parts := split_top(text, _ARROW)) > 1 and parts[-1]:
        text = parts[-1]
    if match := re.match(r"^\\text\{([^{}]*)\}$", text):
        inner = match[1].strip()
        # a value in a text wrapper
        if re.search(r"[\d,]", inner) or "\\" in inner:
            text = clean(inner)
    text = re.sub(r"^\s*(?:\\text\{\s*)?(?:negative|minus)\s*\}?\s*(?=\d)", "-", text, flags=re.IGNORECASE)
    text = re.sub(r"\s*(?:\\text\{)?\s*is (?:the|our|my) (?:final |correct )?answer\s*\}?$", "", text)
    text = _COUNTER.sub("", text.lstrip(" ="))
    for spelled in (words.number_in_words(text), words.fraction_in_words(text)):
        if spelled is not None:
            return str(spelled)
    text = re.sub(r"^\\approx(?![A-Za-z])\s*|^(?:approximately|about)\s+", "", text.lstrip(" :"))
    return strip_group(text.rstrip(" .:"))


def _compare(gold: str, answer: str, is_integer: bool) -> Verdict:
    if squeeze(gold) == squeeze(answer):
        return Verdict(True, "text")
    if not answer:
        return Verdict(False, "empty")
    if letter := _GOLD_LETTER.match(gold):
        return Verdict(read_choice(answer) == letter[1], "letter")
    if (time := words.same_clock(gold, answer)) is not None:
        return Verdict(time, "clock")
    gold, answer = named_set(_empty_set(gold)), named_set(_empty_set(answer))
    if re.search(r"\S\s*\+\s*C$", gold):
        # the constant of integration, under any of its names
        gold, answer = (_CONSTANT.sub("+C", text) for text in (gold, answer))
    if words.is_wording(gold):
        if words.same_wording(gold, answer):
            return Verdict(True, "wording")
        if "\\text" in gold or not re.fullmatch(r"[a-z]{3}", gold):
            return Verdict(False, "wording")
    if (label := _LABEL.match(answer)) and not _LABEL.match(gold):
        labelled = _compare(gold, strip_group(answer[label.end() :].strip()), is_integer)
        if labelled.equal:
            return labelled

    def part(left: str, right: str) -> bool | None:
        return _compare(left, right, is_integer).equal

    if ":" in gold:
        answer = re.sub(r"\s*\\text\{\s*to\s*\}\s*|(?<=\d)\s+to\s+(?=\d)", ":", answer)
    rules: tuple[tuple[str, Callable[[], bool | None]], ...] = (
        ("family", lambda: same_family(gold, answer, part)),
        ("quantity", lambda: same_quantity(gold, answer, is_integer)),
        ("matrix", lambda: same_matrix(gold, answer, part)),
        ("chain", lambda: same_chain(gold, answer) if split_chain(gold) else None),
        ("equation", lambda: _equations(gold, answer, part)),
        ("real_set", lambda: same_set(gold, answer)),
        ("dimensions", lambda: _dimensions(gold, answer, part)),
        ("collection", lambda: same_collection(gold, answer, is_integer, part)),
        ("value", lambda: same_scalar(gold, answer, is_integer)),
    )
    for rule, compare in rules:
        try:
            equal = compare()
        except TooLargeError:
            # beyond every bound of ours, and so beyond the gold, which is not
            return Verdict(False, "too_large")
        except UnreadableError:
            return Verdict(None, rule)
        if equal is not None:
            return Verdict(equal, rule)
    return Verdict(None, "unread")


def _empty_set(text: str) -> str:
    if words.plain(text).casefold() in _NO_SOLUTION or squeeze(text) == "\\{\\}":
        return "\\emptyset"
    return text


def _equations(gold: str, answer: str, compare: Compare) -> bool | None:
    gold_sides, answer_sides = sides_of(gold), sides_of(answer)
    if len(elements(gold)) > 1 or len(elements(answer)) > 1:
        return None
    if len(gold_sides) == 1 and len(answer_sides) == 1:
        return None
    if len(gold_sides) == 1:
        return _value_of_equation(gold, answer_sides, compare)
    if len(answer_sides) == 1:
        left, right = gold_sides[0], gold_sides[-1]
        is_curve = squeeze(left) == "y" and bool(re.search(r"(?<![A-Za-z\\])x(?![A-Za-z])", right))
        is_named = bool(re.fullmatch(r"[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+", left.strip())) or bool(
            _FUNCTION_LEFT.match(left)
        )
        if is_curve or not is_named:
            return False
        return compare(right, answer)
    names = [squeeze(sides[0]) for sides in (gold_sides, answer_sides)]
    if (
        len(gold_sides) == len(answer_sides) == 2
        and sorted(names)[-1] == "y"
        and _FUNCTION_LEFT.match(sorted(names)[0])
    ):
        # y = ... and f(x) = ... are one curve
        return compare(gold_sides[1], answer_sides[1])
    return same_equation(gold_sides, answer_sides)


def _value_of_equation(gold: str, sides: list[str], compare: Compare) -> bool | None:
    candidates = [sides[-1]]
    pieces = split_top(sides[-1], re.compile(r"\\approx(?![A-Za-z])"))
    if len(pieces) > 1:
        candidates = [piece for piece in pieces if piece]
    if literal(sides[-1]) is None and literal(sides[0]) is not None:
        candidates.append(sides[0])
    verdicts = [compare(gold, candidate) for candidate in candidates]
    return True if True in verdicts else None if None in verdicts else False


def _dimensions(gold: str, answer: str, compare: Compare) -> bool | None:
    """`12 \\times 18 \\times 11` is three lengths, not a product."""
    pattern = re.compile(r"\s*(?:\\times|\\text\{\s*(?:by|x|×)\s*\}|\bby\b|(?<=\d)\s*[xX*]\s*(?=\d)|\\cdot)\s*")
    factors = pattern.split(gold)
    if len(factors) < 2 or "^" in gold or any(literal(factor) is None for factor in factors):
        return None
    others = pattern.split(answer)
    if len(others) == 1:
        others = ordered(answer) or elements(answer)
    return any_order(factors, others, compare) if len(others) > 1 else False
