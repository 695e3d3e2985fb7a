"""The last resort of a reply without box, announcement or conclusion that says more: its last value.

A reply that ends `... so 9/2 expressed as a decimal is 4.5.` commits to 4.5 as much as one that boxes it. The value
must end its sentence, but for a few words or a remark in parentheses, and follow a verb or an equals sign. Sentences
that hedge, negate, ask or check give none, and so do those that end in a list of different values.
"""

from __future__ import annotations

import re

from kvrepro.graders.cleaning import unify_unicode
from kvrepro.graders.extract.announcements import ASIDE, CONCLUSION
from kvrepro.graders.extract.last_sentence import MATHS, REASON, SENTENCE_END, TOTAL

_ENVIRONMENT = re.compile(r"\\begin\{(align|aligned|gather|gathered|equation|split|eqnarray)(\*?)\}")
_ROW = re.compile(r"\\\\(?:\[[^\]]*\])?")
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)|\\approx(?![A-Za-z])")
_NUMBER = re.compile(
    r"(?<![\w.^_{/])-?\\?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?!\d)|\d+)?(?:\.\d+)?(?<=\d)(?:\s\d+/\d+|/\d+)?"
    r"(?:\s?\\?%|\s?°(?:\s?[CF]\b)?)?(?![\w^])"
)
_PARENTHESES = re.compile(r"\s*\((?!\\|[-\d\s,./]*\))[^()]{6,}\)")
_DOUBT = re.compile(
    r"\b(?:not|cannot|never|no|nor|neither|either|or|maybe|perhaps|might|could|would|may|if|unless|whether|assum\w*"
    r"|suppose|wrong|incorrect|mistake\w*|unclear|unsure|guess|probably|possibly|try|first|case|step|except|instead"
    r"|rather|but|however|although|though|between|ruled|remains to|still)\b|n't\b|\?|\\neq|≠|不|可能|也许|如果|或",
    re.IGNORECASE,
)
_VERB = re.compile(
    r"\b(?:is|are|equals?|be|becomes?|gives?|giving|yields?|yielding|makes?|making|gets?|obtain|find|have"
    r"|has|contains?|holds?|takes?|costs?|weighs?|measures?|totals?|leaves?|needs?|used?|sells?|runs?|walks?|rides?"
    r"|(?:comes?|amounts?|sums?|adds?|simplif\w+|reduces?|evaluates?|rounds?|converts?|up) (?:up )?to|to|at|of|as|ist"
    r"|sind|beträgt|est|es|son|é|è|vale|sono|равн\w+|составляет)\b|[是为有得共]",
    re.IGNORECASE,
)
# between two values of a sentence: what makes the second one the conclusion of the first
_LEADS = re.compile(
    r"=|\\approx|\b(?:is|are|equals?|be|becomes?|gives?|giving|yields?|yielding|makes?|making|gets?|obtain|find|leaves?"
    r"|leaving|to|ist|est|es|son|é|è|sono|so|thus|hence|therefore|altogether|total)\b|[是为得]",
    re.IGNORECASE,
)
_CJK_STEP = re.compile(r"第\s*\d")
_ENTRY = re.compile(r"^\s*(?:[-+*•]\s|\d+[.)]\s|\|)|^\s*\**[A-Z][^:.\n]{0,30}:")
_COUNTED_THING = re.compile(
    r"\b(?:case|step|part|row|line|equation|figure|theorem|problem|chapter|method)s?\s*$", re.IGNORECASE
)
_FEW_WORDS = 6


def last_value(text: str) -> str | None:
    """The value that the last sentence ends in; None where it commits to none.

    Args:
        text: the answer part of a reply, without boxes.
    """
    text = unify_unicode(text).rstrip()
    if (formula := _last_row(text)) is not None:
        return formula
    lines = [line.strip() for line in text.splitlines() if line.strip(" *$_-#>`")]
    if not lines:
        return None
    line = re.sub(r"^[>#\-*\s]+(?=\S)", "", lines[-1])
    line = _PARENTHESES.sub("", line).replace("**", "").replace("__", "").strip(" *`")
    sentences = [s.strip() for s in SENTENCE_END.split(line) if s and s.strip(" .,;")]
    if not sentences or len(sentences[-1]) > 400 or line.endswith("?"):
        return None
    last = sentences[-1]
    if _is_entry(lines) or _CJK_STEP.search(last):
        return None
    if re.match(r"^(?:hint|recall|remark|reminder)\b", last, re.IGNORECASE):
        return None
    if ASIDE.match(last) and not re.match(r"^(?:since|because|when|as|given|for|where)\b", last, re.IGNORECASE):
        return None
    formulas = list(MATHS.finditer(last))
    numbers = [m for m in _NUMBER.finditer(last) if m[0].strip() and not _inside(m.start(), formulas)]
    found = max([*formulas, *numbers], key=lambda m: m.start(), default=None)
    if found is None:
        return None
    before, behind = last[: found.start()], REASON.sub("", " " + last[found.end() :].lstrip())
    # what was doubted in an earlier clause does not matter, what is doubted in the last one does
    clause = re.split(r"[;:]\s|,\s(?:so|thus|hence|and so|therefore)\b", before)[-1]
    if _DOUBT.search(clause) or _DOUBT.search(behind) or re.search(r"\d|\\|=", behind):
        return None
    if len(behind.split()) > _FEW_WORDS or _COUNTED_THING.search(before) or re.search(r"[{}]|[,;]\s*$", behind):
        return None
    # raw assignments (`r=l-m; l=4, v=9`) are working, not a sentence: signs count inside a formula only
    is_formula = bool(found.groups()) or bool(CONCLUSION.match(last))
    if not (_VERB.search(before) or (is_formula and re.search(r"=|\\approx|:\s*$", before + found[0]))):
        return None
    value = _right_side(next((g for g in found.groups() if g is not None), found[0]) if found.groups() else found[0])
    others = [m for m in (*formulas, *numbers) if m.end() <= found.start()]
    # `3 red and 4 blue` states two values, `2 of 8, so 1/4` one
    is_parallel = bool(others) and not _LEADS.search(last[others[-1].end() : found.start()] + found[0])
    return None if is_parallel or not value or not re.search(r"\d|\\", value) else value


def _is_entry(lines: list[str]) -> bool:
    """Whether the last line is one entry of a list, and not its total."""
    return bool(len(lines) > 1 and _ENTRY.match(lines[-1]) and _ENTRY.match(lines[-2]) and not TOTAL.match(lines[-1]))


def _inside(at: int, spans: list[re.Match[str]]) -> bool:
    return any(m.start() <= at < m.end() for m in spans)


def _right_side(formula: str) -> str:
    """What stands behind the last equals sign: `4 \\cdot 24 = 96` gives 96; `x^2 = 4, y = 3` is no single value."""
    parts = _EQUALS.split(formula)
    return "" if len(parts) > 2 and "," in formula else parts[-1].strip(" ,;$").rstrip(". ")


def _last_row(text: str) -> str | None:
    """The right side of the last row of an aligned environment that ends the text."""
    end = re.search(r"\\end\{(\w+\*?)\}[\s$.\]\\]*$", text)
    starts = list(_ENVIRONMENT.finditer(text))
    if end is None or not starts:
        return None
    rows = [row for row in _ROW.split(text[starts[-1].end() : end.start()]) if row.strip(" &\n.")]
    if not rows or not _EQUALS.search(rows[-1]) or _DOUBT.search(re.sub(r"\\text\{", " ", rows[-1])):
        return None
    value = _right_side(rows[-1].replace("&", " "))
    return value if re.search(r"\d|\\", value) else None
