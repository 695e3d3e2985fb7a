"""Words that keep a sentence from committing to what it names: one vocabulary, for values and for letters.

`HEDGE` negates, weighs or guesses: `not 5`, `5 or 6`, `perhaps 5`. `DOUBT` also assumes, excludes or finds mistakes, which
matters where nothing but its place marks a value as the answer. `ASIDE` begins sentences that check or assume, `REVISION`
turns a text into a change of mind, `CONTRAST` sets a value against the one before it, `REASON` begins what only explains.
"""

from __future__ import annotations

import re


def _words(*lists: str, others: str = "") -> re.Pattern[str]:
    """Any of the words; `_` stands for a space."""
    words = "|".join(word.replace("_", r"\s") for words in lists for word in words.split())
    return re.compile(rf"\b(?:{words})\b|n't\b{others}", re.IGNORECASE)


_NEGATIONS = "not cannot no nor neither never none"
_GUESSES = "or either maybe perhaps might unclear unsure guess\\w* try checked between torn"
_CONDITIONS = "if unless whether would could may suppose assum\\w* consider\\w* suspect\\w* probably possibly"
_MISTAKES = (
    "wrong\\w* incorrect\\w* false mistake\\w* trap tempt\\w* confus\\w* distract\\w* fail\\w* hardly poorly badly"
)
_EXCLUSIONS = (
    "except unlike rather instead eliminat\\w* exclud\\w* rul\\w*_out reject\\w* discard\\w* remains_to next_step look_at "
    "still_(?:have|has|needs?)"
)
_CHINESE = r"|不是|不等于|不为|没有|可能|也许|如果|假设|或者|若|检验|第\s*\d"

HEDGE = _words(_NEGATIONS, _GUESSES, others=_CHINESE)
DOUBT = _words(_NEGATIONS, _GUESSES, _CONDITIONS, _MISTAKES, _EXCLUSIONS, others=_CHINESE + r"|\?|\\ne(?![A-Za-z])|~~")
# verbs and prepositions that set a letter against the choice, or only mention it
AGAINST = _words(
    "compar\\w* contrast\\w* recall see start\\w* begin\\w* check\\w* versus than differ\\w* against coin toss nothing"
)
CHECK = re.compile(
    r"^[\s*_>-]*(?:(?:we|now|let us|here)\s+)*(?:check|verif|note|if|suppose|let|assum|recall|in step|step|example|consider"
    r"|try|test|first|case|hint|split|us(?:e|ing)\b|remark|reminder)",
    re.IGNORECASE,
)
ASIDE = re.compile(rf"{CHECK.pattern}|^[\s*_>-]*(?:for|since|when|because|where|here|as|given)", re.IGNORECASE)
REVISION = re.compile(
    r"\b(?:wait|actually|however|no,|correction|correct(?:ed|ion)?|mistake|instead|recheck|re-?check"
    r"|should be|hmm|oops|sorry|but|final|rather|error|not)\b",
    re.IGNORECASE,
)
# `90, not 45`
CONTRAST = re.compile(r"(?:,|\s\()\s*(?:and\s+)?(?:not|rather than|instead of)\s+[\d$\\*-].*$", re.DOTALL)
REASON = re.compile(
    r",?\s+(?:i\.e\.?|that is|or equivalently|equivalently|or about|or approximately|because|since|as"
    r"|which|where|so|for|due|after|when|by|hence|thus|therefore|,)\b.*$",
    re.DOTALL | re.IGNORECASE,
)
# of the letters of choices
HEDGED = DOUBT
