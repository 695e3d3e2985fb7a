"""Does an answer equal the gold? Structure first (choice, words, matrix, equation, list, set, interval), then values.

The comparison is exact: no tolerance except for decimals with six or more digits that stand for an exact value, and
no percent slack. What these rules cannot read is left to math-verify (`symbolic`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kvrepro.graders.cleaning import clean, split_top, strip_group
from kvrepro.graders.compare.collections import (
    APPROX,
    Compare,
    elements,
    same_collection,
    same_matrix,
    sides_of,
    squeeze,
)
from kvrepro.graders.compare.evaluation import TooLargeError, close, number, sampled
from kvrepro.graders.compare.expression import UnreadableError, read_expression, symbols_of
from kvrepro.graders.compare.scalars import literal, same_base, same_quantity, same_scalar
from kvrepro.graders.compare.sets import same_set
from kvrepro.graders.words import is_wording, plain, same_clock, same_wording, value_in_words

_LABEL = re.compile(r"^(?:\\text\{)?\s*(?:\(([A-K])\)|([A-K])\s*[).:])\s*\}?\s*[:~]?\s*(?=\S)")
_LEAD = re.compile(
    r"(?i)^(?:\\text\{)?\s*(?:therefore|thus|hence|so)?,?\s*(?:(?:the|final|correct|our)\s+)*(?:answer|solution|result"
    r"|value)\b[^:={}\d\\]{0,60}?(?:\bis\b|:|=|\bare\b)\s*:?\s*\}?\s*|^\\therefore\s*",
)
_TRAIL = re.compile(r"\s*(?:\\text\{)?\s*is (?:the|our|my) (?:final |correct )?answer\s*\}?$")
_ARROW = re.compile(
    r"\\Rightarrow(?![A-Za-z])|\\to(?![A-Za-z])|=>|->"
    r"|\\text\{[\s,;]*(?:and )?(?:so|thus|hence|therefore|which gives|giving|which means|that is|i\.e\.)[\s,:]*\}"
)
_NEGATIVE = re.compile(r"(?i)^\s*(?:\\text\{\s*)?(?:negative|minus)\s*\}?\s*(?=\d)")
_ABOUT = re.compile(r"^\\approx(?![A-Za-z])\s*|^(?:approximately|about)\s+")
_LENGTHS = re.compile(r"\d+(?:\s*\\times\s*\d+)+")
_TIMES = re.compile(r"\\times|\\cdot|\\text\{\s*(?:by|x)\s*\}|\bby\b|\*|(?<=\d)\s*[xX]\s*(?=\d)")
_CONSTANT = re.compile(r"(?<=\S)\s*\+\s*(?:C|c|K|k|\\text\{\s*(?:C|const\.?|constant)\s*\})$")
_FUNCTION = re.compile(r"^[A-Za-z](?:_\{?\w+\}?)?'?\s*\(\s*\w\s*\)$")
_NAME = re.compile(r"[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+")
# measure words of Chinese, Japanese and Korean behind a number
_COUNTER = re.compile(r"(?<=[\d})])\s*[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]{1,6}$")
_NO_SOLUTION = re.compile(r"(?i)no (?:real )?solutions?|none|(?:the )?empty set|\\\\")
# `, k \\in \\mathbb{Z}`, `for any integer n`
_DECLARED = re.compile(
    r"[\s,;]*(?:\\text\{[\s,(]*|\()?(?:(?:where|for|with|any|all|some|every|each|an)\s+)*\}?\s*"
    r"(?:(?P<name>[a-z])\s*\\in\s*\\?(?:mathbb\s*\{?\s*|text\s*\{?\s*)?[ZN]\s*\}?\s*(?:[\^_]?\s*\{?\s*[+*]\s*\}?)?"
    r"|integers?\b\s*\}?\s*(?P<other>[a-z])(?![a-z]))\s*[)}]*(?P<end>\\\})?$"
)


@dataclass(frozen=True)
class Verdict:
    """`equal` is None where these rules cannot read one of the sides."""

    equal: bool | None
    rule: str


def same_answer(gold: str, answer: str, is_integer: bool = False) -> Verdict:
    """Compare two answers as written by a data set and a model."""
    return _compare(clean(gold), _without_lead(clean(answer)), is_integer)


def _without_lead(text: str) -> str:
    """Without the words that announce, derive or round the value; a number in words as digits."""
    text = split_top(_LEAD.sub("", text).strip(), _ARROW)[-1] or text
    match = re.match(r"^\\text\{([^{}]*)\}$", text)
    if match and re.search(r"[\d,\\]", match[1]):
        # a value in a text wrapper
        text = clean(match[1])
    text = _COUNTER.sub("", _TRAIL.sub("", _NEGATIVE.sub("-", text)).lstrip(" ="))
    if (spelled := value_in_words(text)) is not None:
        return str(spelled)
    return strip_group(_ABOUT.sub("", text.lstrip(" :")).rstrip(" .:"))


def _compare(gold: str, answer: str, is_integer: bool) -> Verdict:
    """By text, letter and words; else by the first rule that knows this kind of answer."""
    if not answer or squeeze(gold) == squeeze(answer):
        return Verdict(gold == answer or bool(answer), "text" if answer else "empty")
    if (time := same_clock(gold, answer)) is not None:
        return Verdict(time, "clock")
    gold, answer = _in_one_notation(gold, answer)
    if is_wording(gold):
        if same_wording(gold, answer):
            return Verdict(True, "wording")
        if not re.fullmatch(r"[a-z]{3}", gold):
            return Verdict(False, "wording")

    def part(left: str, right: str) -> bool | None:
        return _compare(left, right, is_integer).equal

    if (label := _LABEL.match(answer)) and not _LABEL.match(gold):
        value = strip_group(answer[label.end() :].strip())
        if part(gold, value):
            return _compare(gold, value, is_integer)
    rules: tuple[tuple[str, Callable[[], bool | None]], ...] = (
        ("quantity", lambda: same_quantity(gold, answer, is_integer)),
        ("matrix", lambda: same_matrix(gold, answer, part)),
        ("equation", lambda: _equations(gold, answer, part)),
        ("real_set", lambda: same_set(gold, answer)),
        ("collection", lambda: same_collection(gold, answer, is_integer, part)),
        ("base", lambda: same_base(gold, answer)),
        ("value", lambda: same_scalar(gold, answer, is_integer)),
    )
    try:
        for rule, compare in rules:
            if (equal := compare()) is not None:
                return Verdict(equal, rule)
    except TooLargeError:
        # beyond every bound of ours, and so beyond the gold, which is not
        return Verdict(False, "too_large")
    except UnreadableError:
        return Verdict(None, rule)
    return Verdict(None, "unread")


def _in_one_notation(gold: str, answer: str) -> tuple[str, str]:
    """Both sides with what a kind of gold lets an answer write in other ways written in one."""
    gold, answer = ("\\emptyset" if _NO_SOLUTION.fullmatch(plain(text)) else text for text in (gold, answer))
    # families: without `k \in \mathbb{Z}` behind them, under one name for their parameters
    declared = [match["name"] or match["other"] for match in map(_DECLARED.search, (gold, answer)) if match]
    if declared and declared[0] != declared[-1]:
        answer = re.sub(rf"(?<![A-Za-z\\]){declared[1]}(?![A-Za-z])", declared[0], answer)
    if declared:
        gold, answer = (_DECLARED.sub(lambda match: match["end"] or "", text) for text in (gold, answer))
    if re.search(r"\S\s*\+\s*C$", gold):
        # the constant of integration, under any of its names
        gold, answer = (_CONSTANT.sub("+C", text) for text in (gold, answer))
    if ":" in gold:
        answer = re.sub(r"\s*\\text\{\s*to\s*\}\s*|(?<=\d)\s+to\s+(?=\d)", ":", answer)
    if _LENGTHS.fullmatch(gold):
        # three lengths, not a product
        gold, answer = (_TIMES.sub(" , ", text) for text in (gold, answer))
    return gold, answer


def _equations(gold: str, answer: str, compare: Compare) -> bool | None:
    """An equation against another one, or one side of it against a value."""
    gold_sides, answer_sides = sides_of(gold), sides_of(answer)
    if len(gold_sides) == len(answer_sides) == 1 or len(elements(gold)) > 1 or len(elements(answer)) > 1:
        return None
    left, right = gold_sides[0].strip(), gold_sides[-1]
    if len(gold_sides) == 1:
        # what stands on its right, or a number on its left
        candidates = [piece for piece in split_top(answer_sides[-1], APPROX) if piece]
        if literal(answer_sides[-1]) is None and literal(answer_sides[0]) is not None:
            candidates.append(answer_sides[0])
        verdicts = [compare(gold, candidate) for candidate in candidates]
        return True if True in verdicts else None if None in verdicts else False
    if len(answer_sides) == 1:
        is_curve = left == "y" and bool(re.search(r"(?<![A-Za-z\\])x(?![A-Za-z])", right))
        is_named = _NAME.fullmatch(left) or _FUNCTION.match(left)
        return compare(right, answer) if is_named and not is_curve else False
    names = sorted(squeeze(sides[0]) for sides in (gold_sides, answer_sides))
    if len(gold_sides) == len(answer_sides) == 2 and names[1] == "y" and _FUNCTION.match(names[0]):
        # y = ... and f(x) = ... are one curve
        return compare(right, answer_sides[1])
    return _same_equation(gold_sides, answer_sides)


def _same_equation(gold: list[str], answer: list[str]) -> bool:
    """Are two equations left = right the same up to a constant factor?

    Deviates: forms that differ by a factor with a variable, such as y = 1/x and xy = 1, count as different.
    """
    first, second = (("add", *map(read_expression, (side[0], f"-({side[-1]})"))) for side in (gold, answer))
    if symbols_of(first) != symbols_of(second) or not symbols_of(first):
        return False
    pairs = list(sampled(first, second))
    ratios = [number(left) / number(right) for left, right in pairs if left != 0 != right]
    if any((left == 0) != (right == 0) for left, right in pairs):
        return False
    if len(ratios) < 2:
        raise UnreadableError("undefined at every sample")
    return all(close(ratios[0], ratio) for ratio in ratios)
