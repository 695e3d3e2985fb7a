"""Single values: numbers and expressions with units, percent, degrees, bases, mixed and approximate forms."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from kvrepro.graders.compare.arithmetic import TooLargeError, number
from kvrepro.graders.compare.evaluation import close, evaluate, has_constant, same_value, symbols_of
from kvrepro.graders.compare.expression import Tree, read_expression
from kvrepro.graders.compare.lexer import UnreadableError
from kvrepro.graders.compare.units import DEGREE, Unit, split_unit, strip_currency
from kvrepro.graders.words import fraction_in_words, number_in_words

# a decimal stands for an exact value that is no terminating decimal only if it gives this many digits
LEAST_DIGITS = 6
_PERCENT = re.compile(
    r"^(.+?)\s*(?:\\?%|\\text\{\s*(?:%|percent|per cent|pct)\s*\}|(?:percent|per cent))$", re.IGNORECASE
)
_BASE_NAMES = [
    "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen",
]  # fmt: skip
_BASE = re.compile(
    r"^\(?\s*(-?[0-9A-Z]+)\s*\)?\s*"
    r"(?:_\s*\{?\s*(?:\\text\{)?\s*(?:base\s*)?(\d{1,2}|[a-z]+)\s*\}?\s*\}?"
    r"|\s*(?:\\text\{)?\s*\(?\s*(?:in )?base[ -]?\s*\}?\s*(\d{1,2}|[a-z]+)\s*\)?\s*\}?)$"
)
_GROUPED = re.compile(r"(?<![\d.,])[1-9](?:\d{0,2}(?:,\d{3})+|\d?(?:,\d{2})+,\d{3})(?!\d)")
_DECIMAL = re.compile(r"^[-+]?\d*\.\d+$")
_PLAIN = re.compile(r"^[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})$")
_FRACTION = re.compile(r"^([-+]?)(?:\\frac\{(\d{1,30})\}\{(\d{1,30})\}|(\d{1,30})\s*/\s*(\d{1,30}))$")
_EXPONENT = re.compile(r"^([-+]?\d+(?:\.\d+)?)(?:[eE](?=[-+])|\s*[eE]\s*(?=\d))([-+]?\d{1,3})$")
_MIXED_PLAIN = re.compile(r"^(-?)(\d+)\s+(\d+)\s*/\s*(\d+)$")
_OUT_OF = re.compile(r"^(\d{1,12}) (?:in|out of) (\d{1,12})$")
_MODULO = re.compile(r"^(.*?)\s*\(?\s*(?:\\text\{\s*\(?\s*mod\s*\}|\\?(?:pmod|bmod|mod))\s*\{?\s*\d+\s*\}?\s*\)?$")
_LEADING_WORDS = re.compile(r"^(?:\s*(?:\\text\{[^{}\d]*\}|[A-Za-z]{2,}[a-z]*:?(?=\s)|:))+\s*")
_COMPARING = re.compile(
    r"\b(?:not|negative|minus|least|most|less|more|fewer|greater|over|under|between|no|half|twice|double|neither)\b"
)


@dataclass(frozen=True)
class Reading:
    """One way to read a text as a value."""

    tree: Tree
    unit: Unit | None = None
    is_percent: bool = False
    decimals: str | None = None


def literal(text: str) -> Fraction | None:
    """Value of a plain integer, decimal or simple fraction, without any expression reading."""
    text = text.strip()
    if _PLAIN.match(text) and text not in ("+", "-"):
        return Fraction(text.rstrip(".") if text.endswith(".") else text)
    if match := _FRACTION.match(text):
        top, bottom = int(match[2] or match[4]), int(match[3] or match[5])
        if bottom:
            return Fraction(-top if match[1] == "-" else top, bottom)
    return None


def base_number(text: str) -> tuple[str, int] | None:
    """(digits, base) of `52_8`, `(52)_{8}`, `52_{\\text{eight}}`, `52 base 8`."""
    # digits above 9 are letters, which may stand in a text wrapper
    match = _BASE.match(re.sub(r"^\\text\{\s*([0-9A-Z]+)\s*\}", r"\1", text.strip()))
    if match is None:
        return None
    spelled = match[2] or match[3]
    if spelled.isdigit():
        base = int(spelled)
    elif spelled in _BASE_NAMES:
        base = _BASE_NAMES.index(spelled) + 2
    else:
        return None
    return match[1].lstrip("0") or "0", base


def readings(text: str, is_numeric: bool) -> list[Reading]:
    """Every way to read the (cleaned) text as one value, the plainest first."""
    found: list[Reading] = []
    text = text.strip()
    if match := _MODULO.match(text):
        text = match[1]
    text, currency = strip_currency(text)
    if (match := _PERCENT.match(text)) and not match[1].endswith("%"):
        found.extend(
            Reading(r.tree, None, True, r.decimals) for r in readings(match[1], is_numeric) if not r.is_percent
        )
    if not found:
        _add(found, text, currency)
    for value, unit, magnitude in split_unit(text, is_numeric):
        value, sign = strip_currency(value)
        for reading in _whole(value):
            tree = reading.tree if magnitude == 1 else ("mul", reading.tree, ("number", Fraction(magnitude)))
            found.append(Reading(tree, sign or unit, False, reading.decimals))
    words = number_in_words(text)
    if (spelled := fraction_in_words(text) if words is None else words) is not None:
        found.append(Reading(("number", Fraction(spelled))))
    if not found:
        stripped = _LEADING_WORDS.sub("", text)
        if stripped != text and stripped and not _COMPARING.search(text[: len(text) - len(stripped)].lower()):
            return readings(stripped, is_numeric)
        # a remark in parentheses behind the value
        remark = re.match(r"^(.*\S)\s*\(\s*(?:\\text\{[^{}]*\}[^()]*|[a-z ]{4,}[^()]*)\)$", text)
        if remark and not re.search(r"\bor\b", text):
            return readings(remark[1], is_numeric)
    return found


def _add(found: list[Reading], text: str, unit: Unit | None) -> None:
    found.extend(Reading(r.tree, unit or r.unit, r.is_percent, r.decimals) for r in _whole(text))


def _whole(text: str) -> list[Reading]:
    """The text as one expression without unit."""
    text = text.strip()
    value = literal(text)
    if value is not None:
        return [Reading(("number", value), decimals=text if _DECIMAL.match(text) else None)]
    if match := _EXPONENT.match(text):
        return [Reading(("number", Fraction(match[1]) * Fraction(10) ** int(match[2])))]
    if (match := _OUT_OF.match(text)) and int(match[2]):
        return [Reading(("number", Fraction(int(match[1]), int(match[2]))))]
    if (match := _MIXED_PLAIN.match(text)) and 0 < int(match[3]) < int(match[4]):
        size = int(match[2]) + Fraction(int(match[3]), int(match[4]))
        return [Reading(("number", -size if match[1] else size))]
    text = _GROUPED.sub(lambda m: m[0].replace(",", ""), text)
    if match := re.fullmatch(r"(-?)(\d*)\.(\d*?)(\d)\4{2,}\s*(?:\.\.\.|\\ldots\s*)", text):
        before = len(match[3])
        size = Fraction(int((match[2] or "0") + match[3]), 10**before) + Fraction(int(match[4]), 9 * 10**before)
        return [Reading(("number", -size if match[1] else size))]
    if re.search(r"\.\s*(?:\.\.|\\ldots)$", text) or "\\ldots" in text:
        text = re.sub(r"(?:\s*\.\.\.|\s*\\ldots)$", "", text).strip()
    try:
        tree = read_expression(text)
    except UnreadableError:
        return []
    return [Reading(tree, decimals=text if _DECIMAL.match(text) else None)]


def approximates(decimals: str, exact: Fraction | object) -> bool:
    """Is a decimal with enough digits the rounding (or cutting) of an exact value?"""
    digits = decimals.lstrip("+-").replace(".", "").lstrip("0")
    if len(digits) < LEAST_DIGITS:
        return False
    if getattr(exact, "imag", 0) != 0:
        return False
    ulp = Fraction(1, 10 ** len(decimals.split(".")[1]))
    difference = abs(number(Fraction(decimals)) - number(exact))
    return bool(difference < number(ulp)) and bool(difference <= abs(number(exact)) * 1e-5)


def same_reading(gold: Reading, answer: Reading, is_integer: bool) -> bool:
    """Do two readings name the same value? Raises UnreadableError if that cannot be decided here."""
    if gold.unit and answer.unit and not gold.unit.agrees(answer.unit):
        return _degrees_and_radians(gold, answer)
    left, right = gold.tree, answer.tree
    if gold.unit and answer.unit and gold.unit.dimensions and answer.unit.dimensions:
        left = ("mul", left, ("number", gold.unit.factor))
        right = ("mul", right, ("number", answer.unit.factor))
    if same_value(left, right):
        return True
    if gold.is_percent != answer.is_percent and not is_integer:
        hundred = ("number", Fraction(100))
        if gold.is_percent and same_value(("div", left, hundred), right):
            return True
        if answer.is_percent and same_value(left, ("div", right, hundred)):
            return True
    if _degrees_and_radians(gold, answer):
        return True
    if symbols_of(left) or symbols_of(right) or is_integer:
        return False
    first, second = evaluate(left), evaluate(right)
    for reading, other, exact in ((answer, first, gold), (gold, second, answer)):
        if reading.decimals and exact.decimals is None and not _terminates(other):
            return approximates(reading.decimals, other)
    if gold.decimals and answer.decimals and len(answer.decimals) > 12:
        # the noise of binary floating point, 0.30000000000000004
        return abs(first - second) <= abs(first) * Fraction(1, 10**12)
    return False


def _terminates(value: object) -> bool:
    if not isinstance(value, Fraction):
        return False
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1


def _degrees_and_radians(gold: Reading, answer: Reading) -> bool:
    """60 degrees are pi/3, if one side says degrees and the other one is a multiple of pi."""
    for degrees, other in ((gold, answer), (answer, gold)):
        if degrees.unit != DEGREE or other.unit == DEGREE or not has_constant(other.tree, "pi"):
            continue
        if not symbols_of(degrees.tree) and not symbols_of(other.tree):
            radians = ("div", ("mul", degrees.tree, ("constant", "pi")), ("number", Fraction(180)))
            return close(evaluate(radians), evaluate(other.tree))
    return False


def same_scalar(gold: str, answer: str, is_integer: bool) -> bool | None:
    """Compare two single values given as cleaned text; None where neither side can be read here."""
    gold_base, answer_base = base_number(gold), base_number(answer)
    if gold_base is not None:
        if answer_base is not None:
            return gold_base == answer_base
        bare = literal(answer)
        return bare is not None and gold_base[0] == (answer.lstrip("0") or "0")
    if answer_base is not None:
        digits, base = answer_base
        try:
            value = int(digits, base)
        except ValueError:
            return False
        return literal(gold) == value
    gold_readings = readings(gold, is_numeric=True)
    numeric = any(not symbols_of(reading.tree) for reading in gold_readings[:1])
    answer_readings = readings(answer, is_numeric=numeric)
    if gold_readings and not numeric:
        # the letter of `2s` is a unit if the answer spells it as one, else a variable
        spelled = {r.unit.dimensions for r in answer_readings if r.unit and r.unit.dimensions}
        measured = [r for r in gold_readings if r.unit and r.unit.dimensions in spelled and not symbols_of(r.tree)]
        gold_readings = measured or readings(gold, is_numeric=False)
    if not gold_readings or not answer_readings:
        return None
    undecided: UnreadableError | None = None
    for left in gold_readings:
        for right in answer_readings:
            try:
                if same_reading(left, right, is_integer):
                    return True
            except TooLargeError:
                raise
            except UnreadableError as error:
                undecided = error
    if undecided is not None:
        return None
    return False
