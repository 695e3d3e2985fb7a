"""Does an answer equal the gold? Structure first (choice, words, matrix, equation, list, set, interval), then values.

The comparison is exact: no tolerance except for decimals with six or more digits that stand for an exact value, and
no percent slack. What these rules cannot read is left to math-verify (`symbolic`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kvrepro.graders import intervals, wording
from kvrepro.graders.choice import read_choice
from kvrepro.graders.cleaning import clean, split_top, strip_group
from kvrepro.graders.equations import same_chain, same_equation, sides_of, split_chain
from kvrepro.graders.evaluation import TooLargeError
from kvrepro.graders.lexer import UnreadableError
from kvrepro.graders.scalars import literal, same_scalar
from kvrepro.graders.shapes import (
    assigned,
    assignments,
    bare,
    braced,
    elements,
    is_grouped_number,
    ordered,
    rows_of,
    squeeze,
    summed_up,
    values_of,
)

_GOLD_LETTER = re.compile(r"^(?:\\text\{)?\s*\(?\s*([A-K])\s*\)?\s*\}?$")
_LABEL = re.compile(r"^(?:\\text\{)?\s*(?:\(([A-K])\)|([A-K])\s*[).:])\s*\}?\s*[:~]?\s*(?=\S)")
_LEAD = re.compile(
    r"^(?:\\text\{)?\s*(?:therefore|thus|hence|so)?,?\s*(?:(?:the|final|correct|our)\s+)*(?:answer"
    r"|solution|result|value)\b"
    r"[^:={}\d\\]{0,60}?(?:\bis\b|:|=|\bare\b)\s*:?\s*\}?\s*|^\\therefore\s*",
    re.IGNORECASE,
)
_ARROW = re.compile(r"\\Rightarrow(?![A-Za-z])|\\to(?![A-Za-z])|=>|->")
_FUNCTION_LEFT = re.compile(r"^[A-Za-z](?:_\{?\w+\}?)?'?\s*\(\s*\w\s*\)$")
# measure words of Chinese, Japanese and Korean behind a number
_COUNTER = re.compile(r"(?<=[\d})])\s*[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]{1,6}$")
_MEMBER_OF = re.compile(r"^\s*[A-Za-z]\s*\\in(?![A-Za-z])\s*")
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
    if (words := wording.number_in_words(text)) is not None:
        return str(words)
    text = re.sub(r"^\\approx(?![A-Za-z])\s*|^(?:approximately|about)\s+", "", text.lstrip(" :"))
    return strip_group(text.rstrip(" .:"))


def _compare(gold: str, answer: str, is_integer: bool) -> Verdict:
    if squeeze(gold) == squeeze(answer):
        return Verdict(True, "text")
    if not answer:
        return Verdict(False, "empty")
    if letter := _GOLD_LETTER.match(gold):
        return Verdict(read_choice(answer) == letter[1], "letter")
    if (time := wording.same_clock(gold, answer)) is not None:
        return Verdict(time, "clock")
    gold, answer = _empty_set(gold), _empty_set(answer)
    if wording.is_wording(gold):
        if wording.same_wording(gold, answer):
            return Verdict(True, "wording")
        if "\\text" in gold or not re.fullmatch(r"[a-z]{3}", gold):
            return Verdict(False, "wording")
    if (label := _LABEL.match(answer)) and not _LABEL.match(gold):
        labelled = _compare(gold, strip_group(answer[label.end() :].strip()), is_integer)
        if labelled.equal:
            return labelled
    if ":" in gold:
        answer = re.sub(r"\s*\\text\{\s*to\s*\}\s*|(?<=\d)\s+to\s+(?=\d)", ":", answer)
    for rule, compare in _RULES:
        try:
            equal = compare(gold, answer, is_integer)
        except TooLargeError:
            # beyond every bound of ours, and so beyond the gold, which is not
            return Verdict(False, "too_large")
        except UnreadableError:
            return Verdict(None, rule)
        if equal is not None:
            return Verdict(equal, rule)
    return Verdict(None, "unread")


def _empty_set(text: str) -> str:
    if wording.plain(text).casefold() in _NO_SOLUTION or squeeze(text) == "\\{\\}":
        return "\\emptyset"
    return text


def _all_equal(gold: list[str], answer: list[str], is_integer: bool) -> bool | None:
    """Same length and equal in order; None where a pair cannot be read and no pair differs."""
    if len(gold) != len(answer):
        return False
    verdicts = [_compare(left, right, is_integer).equal for left, right in zip(gold, answer, strict=True)]
    return False if False in verdicts else None if None in verdicts else True


def _any_order(gold: list[str], answer: list[str], is_integer: bool) -> bool | None:
    """Same elements, each used once, in any order."""
    if len(gold) != len(answer):
        return False
    rest = list(answer)
    unread = False
    for left in gold:
        for right in rest:
            equal = _compare(left, right, is_integer).equal
            unread = unread or equal is None
            if equal:
                rest.remove(right)
                break
        else:
            return None if unread else False
    return True


def _matrices(gold: str, answer: str, is_integer: bool) -> bool | None:
    first = rows_of(gold)
    if first is None:
        return None
    sides = sides_of(answer)
    answer = sides[-1] if len(sides) > 1 else answer
    second = rows_of(answer)
    if second is None:
        parts = ordered(answer)
        if parts is None or any(len(row) != 1 for row in first[1]):
            return False if parts is not None else None
        second = ("", [[part] for part in parts])
    if [len(row) for row in first[1]] != [len(row) for row in second[1]]:
        return False
    cells = [
        [f"({factor})({cell})" if factor else cell for row in rows for cell in row] for factor, rows in (first, second)
    ]
    cells = [[re.sub(r"^\(-\)", "-", cell) for cell in column] for column in cells]
    return _all_equal(cells[0], cells[1], is_integer)


def _equations(gold: str, answer: str, is_integer: bool) -> bool | None:
    gold_sides, answer_sides = sides_of(gold), sides_of(answer)
    if len(elements(gold)) > 1 or len(elements(answer)) > 1:
        return None
    if len(gold_sides) == 1 and len(answer_sides) == 1:
        return None
    if len(gold_sides) == 1:
        return _value_of_equation(gold, answer_sides, is_integer)
    if len(answer_sides) == 1:
        left, right = gold_sides[0], gold_sides[-1]
        is_curve = squeeze(left) == "y" and bool(re.search(r"(?<![A-Za-z\\])x(?![A-Za-z])", right))
        is_named = bool(re.fullmatch(r"[A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+", left.strip())) or bool(
            _FUNCTION_LEFT.match(left)
        )
        if is_curve or not is_named:
            return False
        return _compare(right, answer, is_integer).equal
    return same_equation(gold_sides, answer_sides)


def _value_of_equation(gold: str, sides: list[str], is_integer: bool) -> bool | None:
    candidates = [sides[-1]]
    pieces = split_top(sides[-1], re.compile(r"\\approx(?![A-Za-z])"))
    if len(pieces) > 1:
        candidates = [piece for piece in pieces if piece]
    if literal(sides[-1]) is None and literal(sides[0]) is not None:
        candidates.append(sides[0])
    verdicts = [_compare(gold, candidate, is_integer).equal for candidate in candidates]
    return True if True in verdicts else None if None in verdicts else False


def _chains(gold: str, answer: str, is_integer: bool) -> bool | None:
    """Orders such as b > a > c, and relations between two variables."""
    return same_chain(gold, answer) if split_chain(gold) else None


def _dimensions(gold: str, answer: str, is_integer: bool) -> bool | None:
    """`12 \\times 18 \\times 11` is three lengths, not a product."""
    pattern = re.compile(r"\s*(?:\\times|\\text\{\s*(?:by|x|×)\s*\}|\bby\b|(?<=\d)\s*[xX*]\s*(?=\d)|\\cdot)\s*")
    factors = pattern.split(gold)
    if len(factors) < 2 or "^" in gold or any(literal(factor) is None for factor in factors):
        return None
    others = pattern.split(answer)
    if len(others) == 1:
        others = ordered(answer) or elements(answer)
    return _any_order(factors, others, is_integer) if len(others) > 1 else False


def _real_sets(gold: str, answer: str, is_integer: bool) -> bool | None:
    """Intervals, inequalities, unions; a pair in round brackets on both sides is compared as a pair."""
    if not _is_set_like(gold) or (ordered(gold) is not None and ordered(answer) is not None):
        return None
    if gold.startswith("\\{") and (text := _same_builder(gold, answer)) is not None and text:
        return True
    first = None
    try:
        first = intervals.read_real_set(_right_of_member(gold))
        second = intervals.read_real_set(_right_of_member(answer))
    except UnreadableError:
        parts = ordered(gold)
        if parts is None and first is not None and not _is_set_like(answer):
            return False if literal(answer) is not None else None
        return None if parts is not None and gold[0] == "(" else _unread_set(gold, answer)
    return intervals.same_real_set(first, second)


def _unread_set(gold: str, answer: str) -> bool | None:
    if not _is_set_like(answer) and braced(answer) is None and literal(answer) is not None:
        return False
    raise UnreadableError("a set of another form")


def _right_of_member(text: str) -> str:
    sides = sides_of(text)
    return (
        sides[-1]
        if len(sides) == 2 and re.fullmatch(r"[A-Za-z\s\\]+(?:cap|cup)?[A-Za-z\s\\]*|\\text\{.*\}", sides[0])
        else text
    )


def _is_set_like(text: str) -> bool:
    if re.search(r"\\(?:le|ge|ne|in|cup|setminus|mathbb|emptyset)(?![A-Za-z])|[<>]", text):
        return True
    if text.startswith("\\{"):
        return bool(re.search(r"\||:|\\mid", text))
    parts = re.fullmatch(r"[(\[\]](.*)[)\]\[]", text)
    return bool(parts) and len(split_top(parts[1], re.compile("[,;]"))) == 2


def _same_builder(gold: str, answer: str) -> bool | None:
    """Set-builder texts that agree up to the names of their letters."""

    def rename(text: str) -> str:
        text = squeeze(re.sub(r"\\mid(?![A-Za-z])|:", "|", re.sub(r"\\text\{\s*([^{}]*?)\s*\}", r"\1", text)))
        text = text.replace("\\mathbb{", "").replace("{", "").replace("}", "")
        names: dict[str, str] = {}
        return re.sub(r"(?<![A-Za-z\\])[a-z](?![A-Za-z])", lambda m: names.setdefault(m[0], f"v{len(names)}"), text)

    return rename(gold) == rename(answer)


def _collections(gold: str, answer: str, is_integer: bool) -> bool | None:
    """Sets and lists in any order, tuples in theirs; a single gold never equals a list."""
    gold_set, answer_set = braced(gold), braced(answer)
    sides = sides_of(answer)
    if answer_set is None:
        answer_set = braced(_MEMBER_OF.sub("", sides[-1]))
    if gold_set is not None:
        return (
            _any_order(gold_set, answer_set or values_of(answer), is_integer)
            if answer_set or not ordered(answer)
            else False
        )
    gold_tuple = ordered(gold)
    if gold_tuple is not None:
        if len(sides) == 2 and ordered(sides[-1]):
            answer = sides[-1]
        parts = ordered(answer)
        if parts is None:
            if answer_set is not None or len(gold_tuple) != len(elements(answer)):
                return False
            parts = assigned(elements(answer))
        elif (gold[0] == "[") != (answer[0] == "[") or (gold[-1] == "]") != (answer[-1] == "]"):
            return False
        return _all_equal(gold_tuple, parts, is_integer)
    gold_list = elements(gold)
    if len(gold_list) > 1:
        named, answered = assignments(gold_list), assignments(elements(answer))
        if named is not None and answered is not None and set(named) == set(answered):
            return _all_equal(list(named.values()), [answered[name] for name in named], is_integer)
        parts = answer_set or values_of(answer)
        if len(parts) == 1 and is_grouped_number(answer):
            parts = answer.split(",")
        if len(parts) == 1 and (in_order := ordered(answer)):
            return _all_equal(gold_list, in_order, is_integer)
        return _any_order([bare(part) for part in gold_list], parts, is_integer)
    if answer_set is not None:
        return _any_order([gold], answer_set, is_integer)
    if ordered(answer) is not None:
        return False
    parts = values_of(answer)
    if len(parts) > 1:
        if not is_integer and re.fullmatch(r"-?\d+,\d+", answer) and literal(gold) is not None and "." in gold:
            return same_scalar(gold, answer.replace(",", "."), False)
        if (total := summed_up(elements(answer))) is not None:
            return _compare(gold, total, is_integer).equal
        # `3/5 or 0.6` is one value written twice
        return all(_compare(gold, part, is_integer).equal for part in parts)
    if not parts:
        # nothing but separators, such as a lone `&`: no value that could equal the gold
        return False if squeeze(answer) else None
    return None if squeeze(parts[0]) == squeeze(answer) else _compare(gold, parts[0], is_integer).equal


def _scalars(gold: str, answer: str, is_integer: bool) -> bool | None:
    return same_scalar(gold, answer, is_integer)


_Rule = Callable[[str, str, bool], "bool | None"]
_RULES: tuple[tuple[str, _Rule], ...] = (
    ("matrix", _matrices),
    ("chain", _chains),
    ("equation", _equations),
    ("real_set", _real_sets),
    ("dimensions", _dimensions),
    ("collection", _collections),
    ("value", _scalars),
)
