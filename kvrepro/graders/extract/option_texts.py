"""Options of multiple-choice problems by their texts: which ones a reply lists, and which one it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from kvrepro.graders.cleaning import clean

LETTERS = "ABCDEFGHIJK"
_L = f"[{LETTERS}]"
_OPTION_LINE = re.compile(
    rf"(?:^|\n)[ \t>*\-•]{{0,8}}[(\[]?({_L})[)\].:](?:\*\*)?[ \t]*(?:\*\*)?(\S[^\n]{{0,300}}?)\s*(?=\n|$)"
)
_INLINE_OPTION = re.compile(rf"\(({_L})\)\s*([^()\n]{{1,120}}?)(?=[\s,;]*\(({_L})\)|[\n]|[.;]\s|$)")


_MEASURED = re.compile(r"^\s*(-?\d+(?:,\d{3})*(?:\.\d+)?)\s*((?:[A-Za-z%/^.]|(?<=\^)\{?-?\d\}?|\s){0,30}?)\s*$")
_CONTRASTED = re.compile(r",?\s*(?:and\s+)?(?:\bnot\b|rather than|instead of|unlike|as opposed to).*$", re.IGNORECASE)
HEDGED = re.compile(
    r"\b(?:not|no|nor|neither|cannot|unlike|except|rather|instead|or|maybe|perhaps|either|wrong|incorrect|false"
    r"|eliminate[sd]?|unclear|unsure)\b|n't\b",
    re.IGNORECASE,
)


def listed_options(text: str) -> dict[str, str]:
    """Options that a text lists, as `A) ...` lines or `(A) ... (B) ...`; needs at least two letters."""
    tail = text[-20_000:]
    options: dict[str, str] = {}
    for pattern in (_OPTION_LINE, _INLINE_OPTION):
        for match in pattern.finditer(tail):
            options.setdefault(match[1], match[2])
        if len(options) >= 2:
            return options
        options = {}
    return {}


def normalised(text: str) -> str:
    """Option text for comparison: no wrappers, case, spaces, or final stop."""
    text = clean(text)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    return re.sub(r"[\s{}*$\\]|(?:^|(?<=\s))(?:a|an|the)\s", "", text.casefold()).strip(".,;:\"'")


def letter_of_option(text: str, options: Mapping[str, str]) -> str | None:
    """Letter of the one option whose text equals `text`."""
    wanted = normalised(text)
    matches = [letter for letter, option in options.items() if wanted and normalised(option) == wanted]
    if not matches and (measured := _number_and_unit(text)):
        # `16` for the option `16 m`
        others = {letter: _number_and_unit(option) for letter, option in options.items()}
        matches = [
            letter for letter, other in others.items()
            if other and other[0] == measured[0] and (not measured[1] or not other[1] or measured[1] == other[1])
        ]  # fmt: skip
    return matches[0] if len(matches) == 1 else None


def _number_and_unit(text: str) -> tuple[Fraction, str] | None:
    match = _MEASURED.match(re.sub(r"\\text\{([^{}]*)\}", r" \1 ", clean(text)))
    return (Fraction(match[1].replace(",", "")), re.sub(r"[\s{}]", "", match[2]).casefold()) if match else None


def option_in(sentence: str, options: Mapping[str, str]) -> str | None:
    """Letter of the one option whose text a plain concluding sentence contains."""
    sentence = _CONTRASTED.sub("", sentence)
    if HEDGED.search(sentence):
        return None
    spaced = re.sub(r"[^\w.+-]+", " ", clean(sentence).casefold()).strip(" .")
    texts = {letter: re.sub(r"[^\w.+-]+", " ", clean(text).casefold()).strip(" .") for letter, text in options.items()}
    found = [letter for letter, text in texts.items() if len(text) > 1 and f" {text} " in f" {spaced} "]
    return found[0] if len(found) == 1 else None
