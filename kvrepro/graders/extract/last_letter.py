"""The last resort for a choice: the one letter that the last sentence names and does not reject.

`Only **B** passes both tests.` and `It is not A but C.` commit to a letter without any announcement. A letter in
brackets or emphasised counts wherever it stands, a bare one only behind a verb, `only`, `but` or a colon, because
points, phases and vitamins are letters too.
"""

from __future__ import annotations

import re

from kvrepro.graders.cleaning import unify_unicode
from kvrepro.graders.extract.announcements import CHOICE_WORD
from kvrepro.graders.extract.option_texts import HEDGED, LETTERS
from kvrepro.graders.extract.verdicts import AGAINST, DOWN, REFERENCE

_L = f"[{LETTERS}]"
_SENTENCE = re.compile(r"(?<=[\w)\]*~`\"'])[.!]\s+(?=\S)")
_WRAPPED = re.compile(rf"(?:\(({_L})\)|\[({_L})\]|\*\*\(?({_L})\)?[.:]?\*\*|__({_L})__|`\(?({_L})\)?`)")
_BARE = re.compile(
    rf"(?:\b(?:{CHOICE_WORD}|is|be|only|just|but|not|remains?|leaves|leaving|nor|choose|pick)\b|:|[{DOWN}])"
    rf"(?:,?\s+(?:however|therefore|thus|indeed|clearly|hence|then|option|choice),?)*\s+({_L})(?=[\s.,;:!)]|$)"
    rf"|(?:^|(?<=[.;:]\s))({_L})\s+(?:passes|is left|is right|does|has it)\b"
)
_ARTICLE = re.compile(
    r"^\s+(?!(?:is|because|since|as|and|or|only|alone|here|passes|fits|does|has|was|by|for|in|on)\b)[a-z]"
)
_NOT_BEFORE = re.compile(
    rf"(?:\bnot|\bnor|\bneither|n't be|\bnever|\bexcept|\bunlike|\bwithout|[{DOWN}]\ufe0f?)"
    rf"\s*(?:{CHOICE_WORD})?\s*[*(\[]*$",
    re.IGNORECASE,
)
_LISTED = re.compile(rf"^[\s*)\]]*(?:,|/|&|and|or)\s*[*(\[]*{_L}\b")
# a negation that is not of a letter may be of what stands beside the letter: `not the ketone, i.e. option A`
_NEGATED = re.compile(
    rf"(?:\b(?:not|never|no|rul\w+ out|eliminat\w+)\b|n't\b)(?!\s+(?:{CHOICE_WORD}\s+)?[*(\[]*{_L}\b)", re.IGNORECASE
)
_NOT_BEHIND = re.compile(
    r"^[\s*)\]]*(?:is|are|was|can|does|do|seems|would)?\s*(?:not\b|n't|wrong|incorrect|false|fails?\b|excluded|eliminated"
    r"|ruled|out\b|impossible|cannot)",
    re.IGNORECASE,
)


def last_letter(line: str) -> str | None:
    """The one letter that the last sentence names without rejecting it, or of several the one that it ends in.

    Args:
        line: the reply's last line.
    """
    line = unify_unicode(line).replace("i.e.", "ie").replace("e.g.", "eg")
    sentence = _SENTENCE.split(line[-400:])[-1].strip()
    if "?" in sentence or HEDGED.search(sentence) or _NEGATED.search(sentence):
        return None
    whole = _kept(sentence)
    if len(whole) == 1:
        return whole.pop() if not AGAINST.search(sentence) else None
    # `I hesitated between B and D, but the splitting settles it: D.`
    closing = re.search(rf"(?::|\b(?:is|it is|it's|only))\s+[*(\[`]*({_L})[*)\]`]*\.?$", sentence)
    if closing and closing[1] in whole and not _NOT_BEFORE.search(sentence[: closing.start(1)]):
        return closing[1]
    return None


def _kept(sentence: str) -> set[str]:
    """Letters that the sentence names and does not reject."""
    found: set[str] = set()
    for match in (*_WRAPPED.finditer(sentence), *_BARE.finditer(sentence)):
        letter = next(group for group in match.groups() if group)
        at = match.start() + match[0].rindex(letter)
        before, behind = sentence[:at].rstrip("*([`_"), sentence[match.end() :]
        is_bare = match.re is _BARE
        if is_bare and _LISTED.match(behind):
            return set()
        if is_bare and letter in "AI" and _ARTICLE.match(behind):
            continue
        if not is_bare and REFERENCE.search(before):
            continue
        if before.endswith("=") or behind.startswith("="):
            # a value in working that breaks off: `n=(D)=1288}`
            continue
        if _NOT_BEFORE.search(before) or _NOT_BEHIND.match(behind):
            continue
        found.add(letter)
    return found
