"""Words that keep a sentence from committing to what it names: one vocabulary, for values and for letters.

`HEDGE` negates, weighs or guesses: `not 5`, `5 or 6`, `perhaps 5`. `DOUBT` also assumes, excludes or finds mistakes,
which matters where nothing but its place marks a value as the answer. `CHECK` and `ASIDE` begin sentences that check or
assume, `REVISION` changes its mind, `CONTRAST` sets a value against the one before it, `REASON` only explains.
"""

from __future__ import annotations

import re

_HEDGES = (
    r"not|cannot|no|nor|neither|never|none|or|either|maybe|perhaps|might|unclear|unsure|guess\w*|try|checked|between"
    r"|torn"
)
_DOUBTS = (
    r"but|however|although|though|if|unless|whether|would|could|may|suppose|assum\w*|consider\w*|suspect\w*|probably"
    r"|possibly|wrong\w*|incorrect\w*|false|mistake\w*|trap|tempt\w*|confus\w*|distract\w*|fail\w*|hardly|poorly|badly"
    r"|except|unlike|rather|instead|eliminat\w*|exclud\w*|rul\w* out|reject\w*|discard\w*|remains to|next step|look at"
    r"|still (?:have|has|needs?)"
)
_CHINESE = r"不是|不等于|不为|没有|可能|也许|如果|假设|或者|若|检验|第\s*\d"

HEDGE = re.compile(rf"(?i)\b(?:{_HEDGES})\b|n't\b|{_CHINESE}")
DOUBT = re.compile(rf"(?i)\b(?:{_HEDGES}|{_DOUBTS})\b|n't\b|{_CHINESE}|\?|\\ne(?![A-Za-z])|~~")
# verbs and prepositions that set a letter against the choice, or only mention it
AGAINST = re.compile(
    r"(?i)\b(?:compar\w*|contrast\w*|recall|see|start\w*|begin\w*|check\w*|versus|than|differ\w*|against|coin|toss"
    r"|nothing)\b"
)
CHECK = re.compile(
    r"(?i)^[\s*_>-]*(?:(?:we|now|let us|here)\s+)*(?:check|verif|note|if|suppose|let|assum|recall|in step|step|example"
    r"|consider|try|test|first|case|hint|split|us(?:e|ing)\b|remark|reminder)"
)
ASIDE = re.compile(rf"{CHECK.pattern}|^[\s*_>-]*(?:for|since|when|because|where|here|as|given)")
REVISION = re.compile(
    r"(?i)\b(?:wait|actually|however|no,|correction|correct(?:ed|ion)?|mistake|instead|recheck|re-?check|should be|hmm"
    r"|oops|sorry|but|final|rather|error|not)\b"
)
# `90, not 45`
CONTRAST = re.compile(r"(?s)(?:,|\s\()\s*(?:and\s+)?(?:not|rather than|instead of)\s+[\d$\\*-].*$")
REASON = re.compile(
    r"(?is),?\s+(?:i\.e\.?|that is|or equivalently|equivalently|or about|or approximately|because|since|as|which|where"
    r"|so|for|due|after|when|by|hence|thus|therefore|,)\b.*$"
)
