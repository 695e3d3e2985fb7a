"""Options of multiple-choice problems by their texts: which ones a reply lists, and which one it names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction

from kvrepro.graders.cleaning import clean
from kvrepro.graders.extract.hedging import DOUBT
from kvrepro.graders.letters import LETTER

_OPTION_LINE = re.compile(
    rf"(?:^|\n)[ \t>*\-•]{{0,8}}[(\[]?({LETTER})[)\].:](?:\*\*)?[ \t]*(?:\*\*)?(\S[^\n]{{0,300}}?)\s*(?=\n|$)"
)
_INLINE_OPTION = re.compile(rf"\(({LETTER})\)\s*([^()\n]{{1,120}}?)(?=[\s,;]*\(({LETTER})\)|[\n]|[.;]\s|$)")
_MEASURED = re.compile(r"^\s*(-?\d+(?:,\d{3})*(?:\.\d+)?)\s*((?:[A-Za-z%/^.]|(?<=\^)\{?-?\d\}?|\s){0,30}?)\s*$")
_CONTRASTED = re.compile(r",?\s*(?:and\s+)?(?:\bnot\b|rather than|instead of|unlike|as opposed to).*$", re.IGNORECASE)
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def listed_options(text: str) -> dict[str, str]:
    """Options that a text lists, as `A) ...` lines or `(A) ... (B) ...`; needs at least two letters."""
    for pattern in (_OPTION_LINE, _INLINE_OPTION):
        options: dict[str, str] = {}
        for match in pattern.finditer(text[-20_000:]):
            options.setdefault(match[1], match[2])
        if len(options) >= 2:
            return options
    return {}


def normalised(text: str) -> str:
    """Option text for comparison: no wrappers, case, spaces, or final stop."""
    text = _TEXT.sub(r"\1", clean(text))
    return re.sub(r"[\s{}*$\\]|(?:^|(?<=\s))(?:a|an|the)\s", "", text.casefold()).strip(".,;:\"'")


def letter_of_option(text: str, options: Mapping[str, str]) -> str | None:
    """Letter of the one option whose text equals `text`, or its number where only one of them has a unit."""
    wanted, measured = normalised(text), _number_and_unit(text)
    matches = [letter for letter, option in options.items() if wanted and normalised(option) == wanted]
    if not matches and measured:
        others = {letter: _number_and_unit(option) for letter, option in options.items()}
        matches = [
            key for key, other in others.items() if other and other[0] == measured[0] and "" in (other[1], measured[1])
        ]
    return matches[0] if len(matches) == 1 else None


def _number_and_unit(text: str) -> tuple[Fraction, str] | None:
    match = _MEASURED.match(_TEXT.sub(r" \1 ", clean(text)))
    return (Fraction(match[1].replace(",", "")), match[2].strip()) if match else None


def option_in(sentence: str, options: Mapping[str, str]) -> str | None:
    """Letter of the one option whose text a plain concluding sentence contains."""
    sentence = _CONTRASTED.sub("", sentence)
    if DOUBT.search(sentence):
        return None
    said = f" {_spaced(sentence)} "
    found = [letter for letter, text in options.items() if len(_spaced(text)) > 1 and f" {_spaced(text)} " in said]
    return found[0] if len(found) == 1 else None


def _spaced(text: str) -> str:
    return re.sub(r"[^\w.+-]+", " ", clean(text).casefold()).strip(" .")
