"""Units, currencies and counted nouns behind a number: recognised, stripped, and compared where both sides have one.

A quantity in several units (`3 hours 24 minutes`, `3 dollars and 50 cents`, `12^\\circ 30'`) is one number in each.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

from kvrepro.graders.cleaning import rewritten
from kvrepro.graders.words import plain, word_set

# dimension, then per unit its size and its names; the last line's units have no fixed size in another
_TABLE = """
length, 1 m meter metre, 1/100 cm centimeter centimetre, 1/1000 mm millimeter millimetre, 1000 km kilometer kilometre
length, 127/5000 in inch inche, 381/1250 ft foot feet, 1143/1250 yd yard, 201168/125 mi mile
length, 1/10 dm decimeter decimetre, 1/1000000000 nm nanometer, 1/1000000 um micrometer
time, 1 s sec second, 60 min minute, 3600 h hr hour, 86400 day, 604800 week, 1/1000 ms millisecond
calendar, 1 month, 12 year yr
money, 1 dollar usd buck, 1/100 cent penny pennie
mass, 1 g gram gramme, 1000 kg kilogram, 1/1000 mg milligram
volume, 1 l liter litre, 1/1000 ml milliliter millilitre
energy, 1 joule j, 1000 kj kilojoule
count, 1 unit item u
deg, 1 deg degree, 1/60 arcminute, 1/3600 arcsecond
, 1 euro eur, 1 gbp, 1 yen jpy, 1 yuan cny rmb, 1 rupee inr rs, 1 lb lbs, 1 oz ounce, 1 gallon gal, 1 cup
, 1 rad radian, 1 celsius, 1 fahrenheit, 1 kelvin, 1 ev electronvolt
"""
_LOOKUP: dict[str, tuple[str, Fraction]] = {}
for _line in _TABLE.strip().splitlines():
    _dimension, *_units = _line.split(", ")
    for _size, *_names in map(str.split, _units):
        _LOOKUP.update((_name, (_dimension.strip() or _names[0], Fraction(_size))) for _name in _names)
_SINGLE_LETTERS = frozenset("msghlLJju")
_CURRENCIES = {
    "$": "dollar",
    "€": "euro",
    "£": "gbp",
    "¥": "yen",
    "₹": "rupee",
    "¢": "cent",
    "pounds": "gbp",
    "US": "usd",
}
_SIGN = r"(?:\\text\{\s*)?(?:\\(?=euro|pounds|yen|cent)|\\?(?=[$€£¥₹¢]))(euro|pounds|yen|cent|[$€£¥₹¢])\s*\}?"
_CURRENCY = re.compile(
    r"^(?:\\text\{\s*)?(Rs|USD|EUR|US(?=\s*\\?\$))\.?\s*\}?\s*\\?\$?\s*(?=[-\d.])(.+)$"
    rf"|^(-?)\s*{_SIGN}\s*(.+)$|^(.+?)\s*{_SIGN}$"
)
_MAGNITUDES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
# words that change the meaning of the number before them
_NOT_A_NOUN = word_set("""
and or not to than more less fewer over under most least squared cubed factorial mod modulo times plus minus half halves
third thirds quarter quarters between is are was but nor neither either except until if when while divided th st nd rd
choose base o'clock am pm a.m p.m
""")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
_WORDS = rf"[A-Za-z][A-Za-z.'-]*{_POWER}(?:\s*(?:[/ ]|\\cdot)\s*[A-Za-z][A-Za-z.'-]*{_POWER})*"
# words behind a number, with at least a space or a non-letter before them, or in a text wrapper, which is marked by `~`
_TAIL = re.compile(rf"(?<=[\d}})\]\s!.~])\s*(~?)\s*({_WORDS})\s*$")
_DEGREES = re.compile(r"^(.*?[^\s^])\s*\^?\s*\{?\s*\\circ\s*\}?\s*(?:\\text\{\s*([CF])\s*\}|([CF]))?$")
# a number starts at its first digit: trying each digit of a long one would take the square of its length
_PIECE = r"(?<!\d)(\d+(?:,\d{3})*(?:\.\d+)?)\s*([A-Za-z]{1,12})\.?(?![A-Za-z])"
_COMPOUND = re.compile(rf"{_PIECE}(?:\s*(?:,\s*and\b|,|\band\b|&|\\)?\s*{_PIECE})+")
# units that are signs; minutes and seconds of arc stand behind degrees, else the signs are feet and inches
_SPELLED = (
    (r"\\?\$\s*(\d+)(?=\s*(?:and|,)\s*\d+\s*cents?)", r"\1 dollars"),
    (r"(\d+)\s*h\s*(\d+)\s*m\b", r"\1 h \2 min"),
    (r"(\\circ\b.*\d\s*)'(?!')", r"\1 arcminute "),
    (r"(\\circ\b.*\d\s*)(?:''|\")", r"\1 arcsecond "),
    (r"(?<=\d)\s*\^?\s*\{?\s*\\circ\s*\}?(?=\s*\d)", " deg "),
    (r"(?<=\d)\s*(?:''|\")", " in "),
    (r"(?<=\d)\s*'", " ft "),
)


@dataclass(frozen=True)
class Unit:
    """A product of dimensions with a conversion factor; `dimensions` empty means a noun that says nothing."""

    dimensions: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)

    def agrees(self, other: Unit) -> bool:
        """May the two be the same unit? Nouns agree with everything."""
        return not self.dimensions or not other.dimensions or self.dimensions == other.dimensions


def named(name: str) -> Unit:
    """Unit of one known name."""
    dimension, factor = _LOOKUP[name]
    return Unit(((dimension, 1),), factor)


NOUN = Unit()


def read_unit(text: str) -> Unit | None:
    """Unit spelled by `text`, such as `cm^2`, `square inches`, `km/h`, `miles per hour`; None if it is not one."""
    text = re.sub(r"[{}.]|\\cdot|\\text", " ", text)
    text = re.sub(r"\bmph\b", "mile/hour", re.sub(r"\b(?:kmh|kph|kmph)\b", "km/hour", re.sub(r"\bper\b", "/", text)))
    text = re.sub(r"(?i)\b(?:square|sq)\s+([A-Za-z]+)|([A-Za-z]+)\s+squared\b", r"\1\2^2", text)
    text = re.sub(r"(?i)\b(?:cubic|cu)\s+([A-Za-z]+)|([A-Za-z]+)\s+cubed\b", r"\1\2^3", text)
    if not text.strip() or len(text) > 60:
        return None
    dimensions: Counter[str] = Counter()
    factor, sign = Fraction(1), 1
    for name, power, other in re.findall(r"([A-Za-z]+)(?:\s*\^\s*(-?\d))?|(\S)", text):
        if other == "/":
            sign = -1
            continue
        known = [
            n for n in (name.lower(), name.lower().removesuffix("s"), name.lower().removesuffix("es")) if n in _LOOKUP
        ]
        if not known or (len(known[0]) == 1 and name not in _SINGLE_LETTERS):
            return None
        dimension, size = _LOOKUP[known[0]]
        dimensions[dimension] += sign * int(power or 1)
        factor *= size ** (sign * int(power or 1))
    return Unit(tuple(sorted((name, power) for name, power in dimensions.items() if power)), factor)


def strip_currency(text: str) -> tuple[str, Unit | None]:
    """Without a leading or trailing currency sign."""
    match = _CURRENCY.match(text)
    if match is None:
        return text, None
    sign = match[1] or match[4] or match[7]
    return match[2] or match[6] or match[3] + match[5], named(_CURRENCIES.get(sign, sign.lower()))


def split_unit(text: str, is_numeric: bool) -> list[tuple[str, Unit, int]]:
    """Readings of `text` as (value, unit, magnitude): every way in which its tail is a unit or a counted noun.

    Args:
        is_numeric: whether a bare letter directly behind the number may be a unit (`27m`); False where letters are
            variables.
    """
    if is_numeric:
        # Greek letters of units: ohm and micro
        text = re.sub(r"(?<=[\d)}])\s*(?:\\text\{\s*[kM]\s*\}|[kM])?\s*\\Omega\s*$", r" \\text{ohm}", text)
        text = re.sub(r"(?<=[\d)}])\s*\\mu\s*(?:\\text\{\s*)?([A-Za-z])\s*\}?\s*$", r" \\text{u\1}", text)
    found: list[tuple[str, Unit, int]] = []
    if degrees := _DEGREES.match(text):
        scale = degrees[2] or degrees[3]
        found.append((degrees[1], named({"C": "celsius", "F": "fahrenheit"}.get(scale, "deg")), 1))
        if not scale and is_numeric:
            found.append((rf"\frac{{({degrees[1]})\pi}}{{180}}", named("rad"), 1))
    marked = re.sub(r"\\text\{", r"~\g<0>", text, count=1)
    flat = re.sub(r"\\text\{([^{}]*)\}", lambda match: re.sub(r"[()]", " ", f" {match[1]} "), marked)
    tail = _TAIL.search(flat)
    value = flat[: tail.start()].strip() if tail else ""
    if tail is None or not value:
        return found
    letters = re.match(r"[A-Za-z.' -]*", tail[2])[0]  # type: ignore[index]
    is_spaced = "^" in tail[2] and flat[len(value)].isspace()
    if len(re.sub(r"[^A-Za-z]", "", letters)) > 1 or is_numeric or is_spaced or tail[1]:
        found.extend(_readings(value, tail[2]))
    return found


def _readings(value: str, words: str) -> list[tuple[str, Unit, int]]:
    """The value with its unit, or with a noun that says nothing but perhaps a magnitude."""
    if (unit := read_unit(words)) is not None:
        return [(value, unit, 1)]
    found = words.lower().replace("-", " ").split()
    if "^" in words or len(found) > 8:
        return []
    magnitude = 1
    while found and found[0] in _MAGNITUDES:
        magnitude *= _MAGNITUDES[found.pop(0)]
    if {word.rstrip(".") for word in found} & _NOT_A_NOUN or any(len(word) == 1 and word not in "as" for word in found):
        return []
    return [(value, read_unit(" ".join(found)) or NOUN, magnitude)]


def find_quantity(text: str) -> str | None:
    """The last quantity in several units inside a text."""
    found = [match[0] for match in _COMPOUND.finditer(rewritten(text, _SPELLED)) if read_quantity(match[0])]
    return found[-1] if found else None


def read_quantity(text: str) -> list[tuple[Fraction, Unit]]:
    """The quantity in each of its units; empty unless its parts are of one dimension and get smaller."""
    text = re.sub(r"\s*\\(?=\s|$)", " ", plain(rewritten(text, _SPELLED)))
    sign, text = (-1, text[1:].strip()) if text.startswith("-") else (1, text)
    if not _COMPOUND.fullmatch(text):
        return []
    parts = [(Fraction(digits.replace(",", "")), read_unit(name)) for digits, name in re.findall(_PIECE, text)]
    units = [unit for _, unit in parts if unit is not None and len(unit.dimensions) == 1]
    sizes = [unit.factor for unit in units]
    if len(units) < len(parts) or len({unit.dimensions for unit in units}) > 1 or sizes != sorted(set(sizes))[::-1]:
        return []
    total = sum(number * unit.factor for (number, _), unit in zip(parts, units, strict=True))
    return [(sign * total / unit.factor, unit) for unit in units]
