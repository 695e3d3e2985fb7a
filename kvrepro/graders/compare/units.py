"""Units, currencies and counted nouns behind a number: recognised, stripped, and compared where both sides have one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_NAMES = {
    "length": {
        "m": "m|meter|metre", "cm": "cm|centimeter|centimetre", "mm": "mm|millimeter|millimetre",
        "km": "km|kilometer|kilometre", "in": "in|inch|inche", "ft": "ft|foot|feet", "yd": "yd|yard", "mi": "mi|mile",
        "nm": "nm|nanometer", "um": "um|micrometer", "dm": "dm|decimeter|decimetre",
    },
    "time": {"s": "s|sec|second", "min": "min|minute", "h": "h|hr|hour", "day": "day", "week": "week",
             "ms": "ms|millisecond"},
    "calendar": {"month": "month", "year": "year|yr"},
    "money": {"dollar": "dollar|usd|buck", "cent": "cent|penny|pennie", "euro": "euro|eur", "pound": "gbp",
              "yen": "yen|jpy", "yuan": "yuan|cny|rmb", "rupee": "rupee|inr|rs"},
    "mass": {"g": "g|gram|gramme", "kg": "kg|kilogram", "mg": "mg|milligram", "lb": "lb|lbs", "oz": "oz|ounce"},
    "volume": {"l": "l|liter|litre", "ml": "ml|milliliter|millilitre", "gallon": "gallon|gal", "cup": "cup"},
    "angle": {"deg": "degree|deg", "rad": "radian|rad"},
    "temperature": {"celsius": "celsius", "fahrenheit": "fahrenheit", "kelvin": "kelvin"},
    "energy": {"j": "joule|j", "kj": "kj|kilojoule", "ev": "ev|electronvolt"},
    "speed": {"mph": "mph", "kmh": "kmh|kph|kmph"},
    "count": {"one": "unit|item|u"},
}  # fmt: skip
_FACTORS = {
    "cm": Fraction(1, 100), "mm": Fraction(1, 1000), "km": Fraction(1000), "in": Fraction(254, 10000),
    "ft": Fraction(3048, 10000), "yd": Fraction(9144, 10000), "mi": Fraction(1609344, 1000), "nm": Fraction(1, 10**9),
    "um": Fraction(1, 10**6), "dm": Fraction(1, 10), "min": Fraction(60), "h": Fraction(3600), "day": Fraction(86400),
    "week": Fraction(604800), "ms": Fraction(1, 1000), "cent": Fraction(1, 100), "kg": Fraction(1000),
    "mg": Fraction(1, 1000), "ml": Fraction(1, 1000), "kj": Fraction(1000), "year": Fraction(12),
}  # fmt: skip
# no fixed factor to the others of their dimension
_ALONE = {"euro", "pound", "yen", "yuan", "rupee", "lb", "oz", "gallon", "cup", "deg", "rad",
          "celsius", "fahrenheit", "kelvin", "ev", "kmh", "mph"}  # fmt: skip
_LOOKUP = {
    alias: (name if name in _ALONE else dimension, _FACTORS.get(name, Fraction(1)))
    for dimension, names in _NAMES.items()
    for name, aliases in names.items()
    for alias in aliases.split("|")
}
_SINGLE_LETTERS = {"m", "s", "g", "h", "l", "L", "J", "j", "u"}
_CURRENCY = {"\\$": "dollar", "$": "dollar", "€": "euro", "£": "gbp", "¥": "yen", "₹": "rupee",
             "\\euro": "euro", "\\pounds": "gbp", "\\yen": "yen", "¢": "cent", "\\text{ ¢}": "cent",
             "\\text{¢}": "cent", "\\cent": "cent"}  # fmt: skip
_MAGNITUDES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
# words that change the meaning of the number before them
_NOT_A_NOUN = frozenset(
    [
        "and",
        "or",
        "not",
        "to",
        "than",
        "more",
        "less",
        "fewer",
        "over",
        "under",
        "most",
        "least",
        "squared",
        "cubed",
        "factorial",
        "mod",
        "modulo",
        "times",
        "plus",
        "minus",
        "half",
        "halves",
        "third",
        "thirds",
        "quarter",
        "quarters",
        "between",
        "is",
        "are",
        "was",
        "but",
        "nor",
        "neither",
        "either",
        "except",
        "until",
        "if",
        "when",
        "while",
        "divided",
        "th",
        "st",
        "nd",
        "rd",
        "choose",
        "base",
        "o'clock",
        "am",
        "pm",
        "a.m",
        "p.m",
    ]
)


@dataclass(frozen=True)
class Unit:
    """A product of dimensions with a conversion factor; `dimensions` empty means a noun that says nothing."""

    dimensions: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)

    def agrees(self, other: Unit | None) -> bool:
        """May the two be the same unit? Nouns and missing units agree with everything."""
        return other is None or not self.dimensions or not other.dimensions or self.dimensions == other.dimensions


NOUN = Unit()
DEGREE = Unit((("deg", 1),))
_WORD = re.compile(r"[^\W\d_]+(?:['’.-][^\W\d_]+)*\.?")


def named(name: str) -> Unit:
    """Unit of one known name."""
    dimension, factor = _LOOKUP[name]
    return Unit(((dimension, 1),), factor)


def read_unit(text: str) -> Unit | None:
    """Unit spelled by `text`, such as `cm^2`, `square inches`, `km/h`, `miles per hour`; None if it is not one."""
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).replace("\\cdot", "*").replace("\\%", "percent")
    plain = re.sub(r"\bmph\b", "mile/hour", re.sub(r"\b(?:kmh|kph|kmph)\b", "km/hour", plain))
    plain = re.sub(r"\bper\b", "/", plain).replace("{", "").replace("}", "").replace(".", "").strip()
    if not plain or len(plain) > 60:
        return None
    dimensions: dict[str, int] = {}
    factor = Fraction(1)
    sign, power = 1, 1
    last = None
    for token in re.findall(r"[A-Za-z]+|\^\s*-?\d+|[/*]|\S", plain):
        lower = token.lower()
        if token == "/":
            sign = -1
        elif token == "*":
            continue
        elif token[0] == "^" and len(token) > 1 and last is not None:
            extra = int(token[1:]) - 1
            if abs(extra) > 9:
                return None
            dimensions[last[0]] = dimensions.get(last[0], 0) + last[2] * extra
            factor *= last[1] ** (last[2] * extra)
        elif lower in ("square", "sq", "cubic", "cu"):
            power = 2 if lower.startswith("s") else 3
        elif lower in ("squared", "cubed") and last is not None:
            extra = 1 if lower == "squared" else 2
            dimensions[last[0]] = dimensions.get(last[0], 0) + last[2] * extra
            factor *= last[1] ** (last[2] * extra)
        else:
            entry = _entry(token)
            if entry is None:
                return None
            last = (entry[0], entry[1], sign)
            dimensions[entry[0]] = dimensions.get(entry[0], 0) + sign * power
            factor *= entry[1] ** (sign * power)
            power = 1
    if power != 1:
        return NOUN
    return Unit(tuple(sorted((name, value) for name, value in dimensions.items() if value)), factor)


def _entry(token: str) -> tuple[str, Fraction] | None:
    if len(token) == 1:
        return _LOOKUP.get(token.lower()) if token in _SINGLE_LETTERS else None
    lower = token.lower()
    for candidate in (lower, lower.removesuffix("s"), lower.removesuffix("es")):
        if candidate in _LOOKUP and len(candidate) > 1:
            return _LOOKUP[candidate]
    return None


def strip_currency(text: str) -> tuple[str, Unit | None]:
    """Without a leading or trailing currency sign."""
    if match := re.match(r"^(?:\\text\{\s*)?(Rs\.?|USD|EUR|US(?=\s*\\?\$))\s*\}?\s*\\?\$?\s*(?=[-\d.])(.+)$", text):
        return match[2], named({"R": "rs", "U": "usd", "E": "eur"}[match[1][0]])
    for sign, name in _CURRENCY.items():
        for pattern in (rf"^(-?)\s*{re.escape(sign)}\s*(.+)$", rf"^()(.+?)\s*{re.escape(sign)}$"):
            if match := re.match(pattern, text):
                return match[1] + match[2], named(name)
    return text, None


def split_unit(text: str, is_numeric: bool) -> list[tuple[str, Unit, int]]:
    """Readings of `text` as (value, unit, magnitude): every way in which its tail is a unit or a counted noun.

    Args:
        is_numeric: whether a bare letter directly behind the number may be a unit (`27m`); False where letters are
            variables.
    """
    readings: list[tuple[str, Unit, int]] = []
    if is_numeric:
        # Greek letters of units: ohm and micro
        text = re.sub(r"(?<=[\d)}])\s*(?:\\text\{\s*[kM]\s*\}|[kM])?\s*\\Omega\s*$", r" \\text{ohm}", text)
        text = re.sub(r"(?<=[\d)}])\s*\\mu\s*(?:\\text\{\s*)?([A-Za-z])\s*\}?\s*$", r" \\text{u\1}", text)
    degree = re.match(r"^(.*?)\s*\^\s*\{?\s*\\circ\s*\}?\s*(?:\\text\{\s*([CF])\s*\}|([CF]))?$", text)
    if degree and degree[1]:
        scale = degree[2] or degree[3]
        unit = named({"C": "celsius", "F": "fahrenheit"}[scale]) if scale else DEGREE
        readings.append((degree[1], unit, 1))
    if (match := re.match(r"^(.*?[\d})\]])\s*\\circ\s*$", text)) and match[1]:
        readings.append((match[1], DEGREE, 1))
    # \text{ cm}^2, \text{cm}/\text{s}, ...
    tail = re.search(r"(?:\s*(?:\\text\{[^{}]*\}(?:\s*\^\s*(?:\{\s*-?\d\s*\}|\d))?|\\cdot|/))+\s*$", text)
    if tail and tail.start() > 0 and "\\text" in tail[0]:
        readings.extend(_readings(text[: tail.start()], tail[0]))
    # plain words behind the number, with at least a space or a non-letter before them
    tail = re.search(
        r"(?<=[\d})\]\s!.])\s*([A-Za-z][A-Za-z.'-]*(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?"
        r"(?:\s*[/ ]\s*[A-Za-z][A-Za-z.'-]*(?:\s*\^\s*(?:\{\s*-?\d\s*\}|-?\d))?)*)\s*$",
        text,
    )
    if tail and tail.start() > 0 and "\\" not in tail[1]:
        value, words = text[: tail.start()].strip(), tail[1]
        letters = re.sub(r"[^A-Za-z]", "", words.split("^")[0].split("/")[0])
        spaced = text[tail.start() - 1].isspace() or text[tail.start()].isspace()
        if len(letters) > 1 or is_numeric or (spaced and "^" in words):
            readings.extend(_readings(value, words))
    return readings


def _readings(value: str, words: str) -> list[tuple[str, Unit, int]]:
    value = value.strip()
    unit = read_unit(words)
    if unit is not None:
        return [(value, unit, 1)]
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", words)
    found = [word.lower().rstrip(".") for word in _WORD.findall(plain)]
    if not found or re.search(r"[\d=<>+*^]", plain) or len(found) > 8:
        return []
    magnitude = 1
    while found and found[0] in _MAGNITUDES:
        magnitude *= _MAGNITUDES[found.pop(0)]
    if set(found) & _NOT_A_NOUN or any(len(word) == 1 and word not in ("a", "s") for word in found):
        return []
    noun = read_unit(" ".join(found)) if found else None
    return [(value, noun or NOUN, magnitude)]
