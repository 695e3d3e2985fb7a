"""Single values: numbers and expressions with units, percent, degrees, bases, mixed and approximate forms."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from kvrepro.graders.cleaning import rewritten
from kvrepro.graders.compare.evaluation import evaluate, number, same_value
from kvrepro.graders.compare.expression import Tree, UnreadableError, read_expression, symbols_of
from kvrepro.graders.compare.units import Unit, read_quantity, split_unit, strip_currency
from kvrepro.graders.words import number_in_words, value_in_words

# a decimal stands for an exact value that is no terminating decimal only if it gives this many digits
LEAST_DIGITS = 6
_PERCENT = re.compile(r"(?i)^(.+?)\s*(?:\\?%|\\text\{\s*(?:%|percent|per cent|pct)\s*\}|(?:percent|per cent))$")
_BASE = re.compile(
    r"^\(?\s*(-?[0-9A-Z]+)\s*\)?\s*(?:_\s*\{?\s*(?:\\text\{)?\s*(?:base\s*)?(\d{1,2}|[a-z]+)\s*\}?\s*\}?"
    r"|\s*(?:\\text\{)?\s*\(?\s*(?:in )?base[ -]?\s*\}?\s*(\d{1,2}|[a-z]+)\s*\)?\s*\}?)$"
)
_GROUPED = re.compile(r"(?<![\d.,])[1-9](?:\d{0,2}(?:,\d{3})+|\d?(?:,\d{2})+,\d{3})(?!\d)")
_DECIMAL = re.compile(r"^[-+]?\d*\.\d+$")
_LITERAL = re.compile(
    r"^([-+]?)(?:(\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:\s*/\s*(\d{1,30}))?|\\frac\{(\d{1,30})\}\{(\d{1,30})\})$"
)
# spellings of one value, and how the expression reader is given them: 0.333... repeats for ever, other dots break off
_RESPELLED = (
    (r"^([-+]?\d+(?:\.\d+)?)(?:[eE](?=[-+])|\s*[eE]\s*(?=\d))([-+]?\d{1,3})$", r"\1*10^{\2}"),
    (r"^(\d{1,12}) (?:in|out of) (\d{1,12})$", r"\1/\2"),
    (r"^(-?)(\d+)\s+(\d+)\s*/\s*(\d+)$", r"\1\2\\frac{\3}{\4}"),
    (r"^(-?\d*\.\d*?)(\d)\2{2,}\s*(?:\.\.\.|\\ldots\s*)$", r"\1\\overline{\2}"),
    (r"\s*(?:\.\.\.|\\ldots)$", ""),
)
_MODULO = re.compile(r"\s*\(?\s*(?:\\text\{\s*\(?\s*mod\s*\}|\\?(?:pmod|mod))\s*\{?\s*\d+\s*\}?\s*\)?$")
_LEADING_WORDS = re.compile(r"^(?:\s*(?:\\text\{[^{}\d]*\}|[A-Za-z]{2,}[a-z]*:?(?=\s)|:))+\s*")
# in parentheses behind the value
_REMARK = re.compile(r"(?<=\S)\s*\(\s*(?:\\text\{(?![^{}]*\bor\b)[^{}]*\}[^()]*|(?!or\b)[a-z ]{4,}[^()]*)\)$")
_COMPARING = re.compile(
    r"(?i)\b(?:not|negative|minus|least|most|less|more|fewer|greater|over|under|between|no|half|twice|double|neither)\b"
)


@dataclass(frozen=True)
class ParsedValue:
    """One way to read a text as a value; `decimals` is the text where it is a plain decimal."""

    tree: Tree
    unit: Unit | None = None
    is_percent: bool = False
    decimals: str | None = None


def literal(text: str) -> Fraction | None:
    """Value of a plain integer, decimal or simple fraction, without any expression reading."""
    match = _LITERAL.match(text.strip())
    bottom = int(match[3] or match[5] or 1) if match else 0
    return Fraction(match[1] + (match[2] or match[4]).rstrip(".")) / bottom if match and bottom else None


def readings(text: str, is_numeric: bool) -> list[ParsedValue]:
    """Every way to read the (cleaned) text as one value, the plainest first.

    Args:
        is_numeric: whether a letter behind the number is a unit, not a variable.
    """
    text, currency = strip_currency(_MODULO.sub("", text.strip()))
    found: list[ParsedValue] = []
    if (match := _PERCENT.match(text)) and not match[1].endswith("%"):
        found = [replace(r, unit=None, is_percent=True) for r in readings(match[1], is_numeric) if not r.is_percent]
    if not found:
        found = [replace(reading, unit=currency) for reading in _whole(text)]
    for value, unit, magnitude in split_unit(text, is_numeric):
        value, sign = strip_currency(value)
        for reading in _whole(value):
            tree = reading.tree if magnitude == 1 else ("mul", reading.tree, ("number", Fraction(magnitude)))
            found.append(ParsedValue(tree, sign or unit, False, reading.decimals))
    if (spelled := value_in_words(text)) is not None:
        found.append(ParsedValue(("number", spelled)))
    lead = _LEADING_WORDS.match(text)
    core = text[lead.end() :] if lead and not _COMPARING.search(lead[0]) else _REMARK.sub("", text)
    return found or (readings(core, is_numeric) if core not in ("", text) else [])


def _whole(text: str) -> list[ParsedValue]:
    """The text as one expression without unit."""
    text = text.strip()
    if (value := literal(text)) is not None:
        return [ParsedValue(("number", value), decimals=text if _DECIMAL.match(text) else None)]
    text = rewritten(_GROUPED.sub(lambda match: match[0].replace(",", ""), text), _RESPELLED)
    try:
        return [ParsedValue(read_expression(text), decimals=text if _DECIMAL.match(text) else None)]
    except UnreadableError:
        return []


def _approximates(decimals: str, exact: object) -> bool:
    """Is a decimal with enough digits the rounding (or cutting) of an exact value?"""
    if len(decimals.lstrip("+-").replace(".", "").lstrip("0")) < LEAST_DIGITS or getattr(exact, "imag", 0) != 0:
        return False
    ulp = Fraction(1, 10 ** len(decimals.split(".")[1]))
    difference = abs(number(Fraction(decimals)) - number(exact))
    return bool(difference < number(ulp)) and bool(difference <= abs(number(exact)) * 1e-5)


def same_reading(gold: ParsedValue, answer: ParsedValue, is_integer: bool) -> bool:
    """Do two readings name the same value? Raises UnreadableError if that cannot be decided here."""
    left, right = gold.tree, answer.tree
    if gold.unit and answer.unit:
        if not gold.unit.agrees(answer.unit):
            return False
        if gold.unit.dimensions and answer.unit.dimensions:
            left = ("mul", left, ("number", gold.unit.factor))
            right = ("mul", right, ("number", answer.unit.factor))
    if same_value(left, right):
        return True
    if gold.is_percent != answer.is_percent and not is_integer:
        hundred = ("number", Fraction(100))
        sides = (("div", left, hundred), right) if gold.is_percent else (left, ("div", right, hundred))
        if same_value(*sides):
            return True
    if symbols_of(left) or symbols_of(right) or is_integer:
        return False
    first, second = evaluate(left), evaluate(right)
    for reading, other, exact in ((answer, first, gold), (gold, second, answer)):
        if reading.decimals and exact.decimals is None and not _terminates(other):
            return _approximates(reading.decimals, other)
    # the noise of binary floating point, 0.30000000000000004
    is_noisy = gold.decimals and answer.decimals and len(answer.decimals) > 12
    return bool(is_noisy and abs(first - second) <= abs(first) * Fraction(1, 10**12))


def _terminates(value: object) -> bool:
    return isinstance(value, Fraction) and pow(10, value.denominator.bit_length(), value.denominator) == 0


def _base_number(text: str) -> tuple[str, int] | None:
    """(digits, base) of `52_8`, `(52)_{8}`, `52_{\\text{eight}}`, `52 base 8`."""
    # digits above 9 are letters, which may stand in a text wrapper
    match = _BASE.match(re.sub(r"^\\text\{\s*([0-9A-Z]+)\s*\}", r"\1", text.strip()))
    spelled = (match[2] or match[3]) if match else ""
    base = int(spelled) if spelled.isdigit() else number_in_words(spelled)
    return (match[1].lstrip("0"), base) if match and base and 2 <= base <= 36 else None


def same_base(gold: str, answer: str) -> bool | None:
    """Numbers with a base: the same digits in the same one; None where neither side has one."""
    first, second = _base_number(gold), _base_number(answer)
    if first is not None:
        return first == second if second else literal(answer) is not None and first[0] == answer.lstrip("0")
    try:
        return None if second is None else literal(gold) == int(*second)
    except ValueError:
        return False


def same_quantity(gold: str, answer: str, is_integer: bool) -> bool | None:
    """Compare where a side is said in several units; None where neither is. A bare number means the largest of them."""
    first, second = (
        [ParsedValue(("number", value), unit) for value, unit in read_quantity(text)] for text in (gold, answer)
    )
    if not first and not second:
        return None
    first = first or readings(gold, is_numeric=True)
    second = second or readings(answer, is_numeric=True)
    pairs = [
        (left, right)
        for left in first
        for right in second
        if (left.unit or right is second[0]) and (right.unit or left is first[0])
    ]
    return _any_same(pairs, is_integer)


def same_scalar(gold: str, answer: str, is_integer: bool) -> bool | None:
    """Compare two single values given as cleaned text; None where a side cannot be read here."""
    gold_readings = readings(gold, is_numeric=True)
    numeric = bool(gold_readings) and not symbols_of(gold_readings[0].tree)
    answer_readings = readings(answer, is_numeric=numeric)
    if not numeric:
        # the letter of `2s` is a unit if the answer spells it as one, else a variable
        spelled = {r.unit.dimensions for r in answer_readings if r.unit and r.unit.dimensions}
        measured = [r for r in gold_readings if r.unit and r.unit.dimensions in spelled and not symbols_of(r.tree)]
        gold_readings = measured or readings(gold, is_numeric=False)
    return _any_same([(left, right) for left in gold_readings for right in answer_readings], is_integer)


def _any_same(pairs: list[tuple[ParsedValue, ParsedValue]], is_integer: bool) -> bool | None:
    """Does any pair of readings agree? None where none does and one cannot be decided, or there are none."""
    is_undecided = not pairs
    for left, right in pairs:
        try:
            if same_reading(left, right, is_integer):
                return True
        except UnreadableError:
            is_undecided = True
    return None if is_undecided else False
