"""Units, currencies and counted nouns behind a number: recognised, stripped, and compared where both sides have one.

A quantity in several units (`3 hours 24 minutes`, `3 dollars and 50 cents`, `12^\\circ 30'`) is one number in each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from kvrepro.graders.words import plain, word_set

# dimension, then per unit its size and its names; the last line's units have no fixed size in another
_TABLE = """
length, 1 m meter metre, 1/100 cm centimeter centimetre, 1/1000 mm millimeter millimetre, 1000 km kilometer kilometre
length, 127/5000 in inch inche, 381/1250 ft foot feet, 1143/1250 yd yard, 201168/125 mi mile, 1/10 dm decimeter decimetre
length, 1/1000000000 nm nanometer, 1/1000000 um micrometer
time, 1 s sec second, 60 min minute, 3600 h hr hour, 86400 day, 604800 week, 1/1000 ms millisecond
calendar, 1 month, 12 year yr
money, 1 dollar usd buck, 1/100 cent penny pennie
mass, 1 g gram gramme, 1000 kg kilogram, 1/1000 mg milligram
volume, 1 l liter litre, 1/1000 ml milliliter millilitre
energy, 1 joule j, 1000 kj kilojoule
count, 1 unit item u
, 1 euro eur, 1 gbp, 1 yen jpy, 1 yuan cny rmb, 1 rupee inr rs, 1 lb lbs, 1 oz ounce, 1 gallon gal, 1 cup
, 1 deg degree, 1 rad radian, 1 celsius, 1 fahrenheit, 1 kelvin, 1 ev electronvolt
"""
_LOOKUP: dict[str, tuple[str, Fraction]] = {}
for _line in _TABLE.strip().splitlines():
    _dimension, *_units = _line.split(", ")
    for _size, *_names in map(str.split, _units):
        _LOOKUP.update((_name, (_dimension.strip() or _names[0], Fraction(_size))) for _name in _names)
_SINGLE_LETTERS = frozenset("msghlLJju")
_CURRENCIES = {"$": "dollar", "€": "euro", "£": "gbp", "¥": "yen", "₹": "rupee", "¢": "cent", "euro": "euro"}
_CURRENCIES |= {"pounds": "gbp", "yen": "yen", "cent": "cent", "Rs": "rs", "USD": "usd", "EUR": "eur", "US": "usd"}
_SIGN = r"(?:\\text\{\s*)?(?:\\(euro|pounds|yen|cent)|\\?([$€£¥₹¢]))\s*\}?"
_PREFIXED = re.compile(rf"^(-?)\s*{_SIGN}\s*(.+)$")
_SUFFIXED = re.compile(rf"^(.+?)\s*{_SIGN}$")
_CODE = re.compile(r"^(?:\\text\{\s*)?(Rs|USD|EUR|US(?=\s*\\?\$))\.?\s*\}?\s*\\?\$?\s*(?=[-\d.])(.+)$")
_MAGNITUDES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
# words that change the meaning of the number before them
_NOT_A_NOUN = word_set("""
and or not to than more less fewer over under most least squared cubed factorial mod modulo times plus minus half halves
third thirds quarter quarters between is are was but nor neither either except until if when while divided th st nd rd
choose base o'clock am pm a.m p.m
""")
_WORD = re.compile(r"[^\W\d_]+(?:['’.-][^\W\d_]+)*\.?")
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
# \text{ cm}^2, \text{cm}/\text{s}; plain words behind the number, with at least a space or a non-letter before them
_TEXT_TAIL = re.compile(rf"(?:\s*(?:\\text\{{[^{{}}]*\}}{_POWER}|\\cdot|/))+\s*$")
_WORD_TAIL = re.compile(
    rf"(?<=[\d}})\]\s!.])\s*([A-Za-z][A-Za-z.'-]*{_POWER}(?:\s*[/ ]\s*[A-Za-z][A-Za-z.'-]*{_POWER})*)\s*$"
)
_DEGREES = re.compile(r"^(.*?[^\s^])\s*\^?\s*\{?\s*\\circ\s*\}?\s*(?:\\text\{\s*([CF])\s*\}|([CF]))?$")


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


NOUN, DEGREE = Unit(), named("deg")


def read_unit(text: str) -> Unit | None:
    """Unit spelled by `text`, such as `cm^2`, `square inches`, `km/h`, `miles per hour`; None if it is not one."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace("\\cdot", " ").replace("\\%", "percent")
    text = re.sub(r"\bmph\b", "mile/hour", re.sub(r"\b(?:kmh|kph|kmph)\b", "km/hour", text))
    text = re.sub(r"\bper\b", "/", re.sub(r"[{}.]", "", text))
    text = re.sub(r"\b(?:square|sq)\s+([A-Za-z]+)|([A-Za-z]+)\s+squared\b", r"\1\2^2", text, flags=re.IGNORECASE)
    text = re.sub(r"\b(?:cubic|cu)\s+([A-Za-z]+)|([A-Za-z]+)\s+cubed\b", r"\1\2^3", text, flags=re.IGNORECASE).strip()
    if not text or len(text) > 60:
        return None
    dimensions: dict[str, int] = {}
    factor, sign = Fraction(1), 1
    for name, power, other in re.findall(r"([A-Za-z]+)(?:\s*\^\s*(-?\d))?|(\S)", text):
        if other == "/":
            sign = -1
            continue
        entry = _entry(name)
        if entry is None:
            return None
        size = sign * int(power or 1)
        dimensions[entry[0]] = dimensions.get(entry[0], 0) + size
        factor *= entry[1] ** size
    return Unit(tuple(sorted((name, value) for name, value in dimensions.items() if value)), factor)


def _entry(name: str) -> tuple[str, Fraction] | None:
    lower = name.lower()
    if len(name) < 2:
        return _LOOKUP.get(lower) if name in _SINGLE_LETTERS else None
    candidates = (lower, lower.removesuffix("s"), lower.removesuffix("es"))
    return next((_LOOKUP[c] for c in candidates if len(c) > 1 and c in _LOOKUP), None)


def strip_currency(text: str) -> tuple[str, Unit | None]:
    """Without a leading or trailing currency sign."""
    if match := _CODE.match(text):
        return match[2], named(_CURRENCIES[match[1]])
    if match := _PREFIXED.match(text):
        return match[1] + match[4], named(_CURRENCIES[match[2] or match[3]])
    if match := _SUFFIXED.match(text):
        return match[1], named(_CURRENCIES[match[2] or match[3]])
    return text, None


def split_unit(text: str, is_numeric: bool) -> list[tuple[str, Unit, int]]:
    """Readings of `text` as (value, unit, magnitude): every way in which its tail is a unit or a counted noun.

    Args:
        is_numeric: whether a bare letter directly behind the number may be a unit (`27m`); False where letters are
            variables.
    """
    found: list[tuple[str, Unit, int]] = []
    if is_numeric:
        # Greek letters of units: ohm and micro
        text = re.sub(r"(?<=[\d)}])\s*(?:\\text\{\s*[kM]\s*\}|[kM])?\s*\\Omega\s*$", r" \\text{ohm}", text)
        text = re.sub(r"(?<=[\d)}])\s*\\mu\s*(?:\\text\{\s*)?([A-Za-z])\s*\}?\s*$", r" \\text{u\1}", text)
    if degrees := _DEGREES.match(text):
        scale = degrees[2] or degrees[3]
        found.append((degrees[1], named({"C": "celsius", "F": "fahrenheit"}[scale]) if scale else DEGREE, 1))
    tail = _TEXT_TAIL.search(text)
    if tail and tail.start() > 0 and "\\text" in tail[0]:
        found.extend(_readings(text[: tail.start()].strip(), tail[0]))
    tail = _WORD_TAIL.search(text)
    if tail and tail.start() > 0:
        letters = re.match(r"[A-Za-z.' -]*", tail[1])[0]  # type: ignore[index]
        is_spaced = text[tail.start() - 1].isspace() or text[tail.start()].isspace()
        if len(re.sub(r"[^A-Za-z]", "", letters)) > 1 or is_numeric or (is_spaced and "^" in tail[1]):
            found.extend(_readings(text[: tail.start()].strip(), tail[1]))
    return found


def _readings(value: str, words: str) -> list[tuple[str, Unit, int]]:
    if (unit := read_unit(words)) is not None:
        return [(value, unit, 1)]
    words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", words)
    found = [word.lower().rstrip(".") for word in _WORD.findall(words)]
    if not found or re.search(r"[\d=<>+*^]", words) or len(found) > 8:
        return []
    magnitude = 1
    while found and found[0] in _MAGNITUDES:
        magnitude *= _MAGNITUDES[found.pop(0)]
    if set(found) & _NOT_A_NOUN or any(len(word) == 1 and word not in ("a", "s") for word in found):
        return []
    return [(value, read_unit(" ".join(found)) or NOUN, magnitude)]


_MARK = r"\^\s*\{?\s*\\circ\s*\}?|\\circ|'{1,2}|\""
# a number starts at its first digit: trying each digit of a long one would take the square of its length
_PIECE = rf"(?:\\?\$\s*)?(?<!\d)\d+(?:,\d{{3}})*(?:\.\d+)?\s*(?:{_MARK}|[A-Za-z]{{1,12}}\.?(?![A-Za-z]))"
_COMPOUND = re.compile(rf"{_PIECE}(?:\s*(?:,\s*and\b|,|\band\b|&|\\)?\s*{_PIECE})+")
_PARTS = re.compile(rf"(\d+(?:,\d{{3}})*(?:\.\d+)?)\s*({_MARK}|[A-Za-z]*)")
_DOLLARS = re.compile(r"\\?\$\s*(\d+)(?=\s*(?:and|,)\s*\d+\s*cents?)")
# minutes and seconds of arc, behind degrees; feet and inches otherwise
_ARC = {"'": Fraction(1, 60), '"': Fraction(1, 3600), "''": Fraction(1, 3600)}
_FEET = {"'": "ft", '"': "in", "''": "in"}


def find_quantity(text: str) -> str | None:
    """The last quantity in several units inside a text."""
    found = [match[0] for match in _COMPOUND.finditer(_DOLLARS.sub(r"\1 dollars", text)) if read_quantity(match[0])]
    return found[-1] if found else None


def read_quantity(text: str) -> list[tuple[Fraction, Unit]]:
    """The quantity in each of its units; empty unless its parts are of one dimension and get smaller."""
    # `plain` takes quotation marks off
    marks = text[len(text.rstrip("'\"")) :]
    text = re.sub(r"\s*\\(?=\s|$)", " ", plain(_DOLLARS.sub(r"\1 dollars", text)) + marks)
    sign, text = (-1, text[1:].strip()) if text.startswith("-") else (1, text.strip())
    if not _COMPOUND.fullmatch(text):
        return []
    units: list[Unit] = []
    total = Fraction(0)
    for digits, spelled in _PARTS.findall(text):
        unit = _unit(spelled.strip(), "\\circ" in text, units)
        if unit is None or (units and (unit.dimensions != units[0].dimensions or unit.factor >= units[-1].factor)):
            return []
        units.append(unit)
        total += Fraction(digits.replace(",", "")) * unit.factor
    return [(sign * total / unit.factor, unit) for unit in units]


def _unit(spelled: str, is_arc: bool, before: list[Unit]) -> Unit | None:
    if "\\circ" in spelled:
        return DEGREE
    if spelled in _ARC:
        return Unit(DEGREE.dimensions, _ARC[spelled]) if is_arc else named(_FEET[spelled])
    # 3h24m
    is_minute = spelled == "m" and before and before[0].dimensions == named("h").dimensions
    unit = read_unit("min" if is_minute else spelled)
    return unit if unit is not None and len(unit.dimensions) == 1 else None
