"""Letters of multiple-choice answers: what a text that is nothing but a choice says."""

from __future__ import annotations

import re

from kvrepro.graders.cleaning import clean
from kvrepro.graders.words import plain

LETTERS = "ABCDEFGHIJK"
LETTER = f"[{LETTERS}]"
# several letters at once
AMBIGUOUS = "several"
CHOICE_WORD = (
    r"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer choice|letter|statement|alternative)|opci[oó]n|r[eé]ponse"
    r"|antwort|alternativa|op[cç][aã]o|вариант|选项|選択肢|opzione|opcja|[(]?الخيار"
)
ADVERB = r"(?:(?:therefore|thus|clearly|indeed|definitely|then|alone|also|probably)\s+)?"
JOINER = r"(?:,|;|/|&|\+|and|or|or maybe|und|oder|et|ou|y|o|e|и|или|和|或|与|及|と|、)"
ANOTHER = re.compile(
    rf"^[)\]\s}}$*.,]*\s*{JOINER}\s*(?:option |choice |possibly |maybe |also )?[(\[\s$*{{]*({LETTER}"
    r"|[a-k](?=[)\]]))(?![\w'])"
)
REJECTED = re.compile(
    r"(?i)^[)\]\s}$*]*(?:\s*\([^)]*\))?\s*(?:is|are|was|would be|seems|looks|can be|must be|has been)?\s*(?:also "
    r"|clearly |definitely )?(?:(?:wrong|incorrect|false)(?!\s*:)|not\b|ruled out|eliminated|excluded|out\b|invalid"
    r"|impossible|isn't|can't|cannot|doesn't)",
)
# the article of a noun, not a choice
ARTICLE = re.compile(
    r"^ +(?!because|since|as\b|is\b|and\b|or\b|for\b|with\b|by\b|due\b|from\b|based|so\b|given|if\b|here\b"
    r"|in\b|among|not\b|\w+s the)[a-z]"
)
_POORLY = re.compile(r"^[)\s*]*[a-z]+\s+(?:poorly|badly|partly|only (?!one|option|choice|answer|correct))")
_DESCRIBED = re.compile(
    r"^(?:is|are|was|has|denotes|represents|stands|means)\b(?!\s+(?:therefore\s+|clearly\s+|indeed\s+)?(?:the\s+)?"
    r"(?:only\s+)?(?:most\s+)?(?:correct|right|best|true|answer|valid|accurate))"
)
_LEAD = re.compile(
    rf"(?i)^(?:(?:the\s+)?(?:(?:final|correct|right|best)\s+)*answer\s*(?:is|:|=)|{CHOICE_WORD})\s*[:=]?\s*"
)
_SEVERAL = re.compile(rf"[(\[]?{LETTER}[)\]]?(?:\s*{JOINER}?\s*[(\[]?{LETTER}[)\]]?)+")


def read_choice(text: str) -> str | None:
    """Letter of a text that is nothing but a choice (a box, a final line); AMBIGUOUS for several, None for none."""
    if re.search(r"\\(?:vec|hat|overrightarrow)", text):
        # the name of a vector
        return None
    # words set apart from the letter are a label
    text = plain(re.sub(r"[*\"]", " ", re.sub(rf"^({LETTER})\s*\\text", r"\1) ", clean(text))))
    text = re.sub(r"^\((.*)\)$", r"\1", text) if text.count("(") == 1 else text
    text = text.strip(" .,;:!")
    for _ in range(3):
        text = _LEAD.sub("", text).strip()
    text = re.sub(rf"^[(\[]\s*({LETTER})\s*[)\]]", r"\1)", text, flags=re.IGNORECASE).strip()
    if re.fullmatch(rf"({LETTER})\)?", text, re.IGNORECASE):
        return text[0].upper()
    match = re.match(rf"^({LETTER})(\s*[).:,\-=]|\s+|(?=\())(.*)$", text, re.DOTALL)
    if _SEVERAL.fullmatch(text) or (match and ANOTHER.match(text[1:])):
        return AMBIGUOUS
    if match is None or match[2].strip() == "=" or match[2].startswith("-") or _POORLY.match(match[3].strip()):
        return None
    return None if match[2].isspace() and _is_prose(match[1], match[3].strip()) else match[1]


def _is_prose(letter: str, rest: str) -> bool:
    """Does the letter begin a sentence (`A mass of ...`, `C is the capacitance`, `B is wrong`) or a formula?"""
    if REJECTED.match(" " + rest) or _DESCRIBED.match(rest):
        return True
    if (letter in "AI" or re.match(r"^[a-z]{3,}", rest)) and ARTICLE.match(" " + rest):
        return True
    return bool(re.match(r"^[+*/^<>=\\-]", rest)) and not rest.startswith(("- ", "\\frac", "\\sqrt"))
