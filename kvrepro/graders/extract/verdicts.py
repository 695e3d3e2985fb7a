"""Choices that no announcement makes: ticked lists of options, and last sentences that end in a letter.

Both need the letter in an unmistakable form (behind `option`, in brackets, emphasised) and a sentence that neither
hedges nor compares nor eliminates.
"""

from __future__ import annotations

import re

from kvrepro.graders.extract.announcements import ASIDE, CHOICE_WORD
from kvrepro.graders.extract.option_texts import HEDGED, LETTERS

_L = f"[{LETTERS}]"
_UP = "✓✔☑✅🗸"
DOWN = "✗✘❌✖☒✕🗙"
_UPHELD = frozenset(["true", "correct", "right", "yes", *_UP])
_MARKER = rf"[ \t*>\-(\[|]*({_L})[)\].:*| \t]+"
_VERDICT_LINE = re.compile(
    rf"(?:^|\n){_MARKER}(true|false|correct|incorrect|right|wrong|yes|no|[{_UP}{DOWN}])\ufe0f?[.*| \t]*(?=\n|$)",
    re.IGNORECASE,
)
# the sign behind the option's text, before its letter, or several on a line
_TICKED = (
    re.compile(rf"(?:^|\n){_MARKER}[^\n{_UP}{DOWN}]{{0,200}}?([{_UP}{DOWN}])\ufe0f?[^\w\n]*(?=\n|$)"),
    re.compile(rf"(?:^|\n)[ \t*\-|]*([{_UP}{DOWN}])\ufe0f?[*| \t]*[(\[]?({_L})(?![A-Za-z'])"),
    re.compile(rf"(?<![A-Za-z])[(\[*]*({_L})[)\].:*]*[ \t]*([{_UP}{DOWN}])"),
)
_ARROW_LAST = re.compile(rf"(?:\\to|\\Rightarrow|=>|->)\s*[(\[*$]{{0,3}}({_L})[)\]*$.\s]{{0,4}}$")

_WORD = rf"(?:{CHOICE_WORD}|optie|antwoord|respuesta|resposta|risposta|odpowied[zź]|svar(?:et)?|ответ)"
_WRAPPED = rf"(?:\({_L}\)|\[{_L}\]|\*\*\(?{_L}\)?\.?\*\*|__{_L}__|`\(?{_L}\)?`|[\"']{_L}[\"'])"
_ENDING = re.compile(
    rf"(?:(?P<word>\b{_WORD}|\b(?:remain\w*|left|survivor|verdict|pick|conclusion)\s*:)[\s*:=(\[$`\"']{{0,6}}"
    rf"(?P<named>{_L}(?![A-Za-z]))|(?P<wrapped>{_WRAPPED}))[\s.*)\]$`\"'}}]*$",
    re.IGNORECASE,
)
_MENTION = re.compile(rf"\b{_WORD}s?\s+[*(\[]{{0,3}}({_L})\b|{_WRAPPED}", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[\w)\]*~`\"'])[.;!]\s+(?=\S)")
_CONCLUDES = re.compile(
    r"^\s*(?:and\s+)?(?:so|thus|hence|therefore|which|this|that|it|we|making|giving|leaving)\b", re.IGNORECASE
)
# verbs and prepositions that set the letter against the choice, or only mention it
AGAINST = re.compile(
    r"\b(?:consider\w*|compar\w*|contrast\w*|tempt\w*|recall|see|start\w*|begin\w*|check\w*|versus|than|confus\w*"
    r"|distract\w*|differ\w*|exclud\w*|rul(?:e|es|ed|ing) out|eliminat\w*|reject\w*|discard\w*|against|unless|if"
    r"|could|might|would|fail\w*|trap|mistake\w*|between|either|suppose|coin|guess\w*|torn|toss|none|nothing|hardly|poorly|badly)\b|~~",
    re.IGNORECASE,
)
REFERENCE = re.compile(
    r"\b(?:in|from|by|of|see|eq\w*\.?|parts?|case|step|figure|line|like|with|statement|rule|law|form\w*|at|structures?|schemes?|diagram|graph|table)"
    r"[\s*]*$",
    re.IGNORECASE,
)


def ticked(text: str) -> str | None:
    """The one option that a list of verdicts upholds; lists of fewer than three say too little."""
    upheld = _upheld([(letter, word.casefold()) for letter, word in _VERDICT_LINE.findall(text)])
    for pattern in _TICKED:
        if upheld is not None or not re.search(f"[{_UP}{DOWN}]", text):
            break
        pairs = [pair if pair[0] in LETTERS else pair[::-1] for pair in pattern.findall(text)]
        upheld = _upheld([(letter, sign) for letter, sign in pairs])
    return upheld


def _upheld(verdicts: list[tuple[str, str]]) -> str | None:
    last = dict(verdicts)
    upheld = [letter for letter, word in last.items() if word in _UPHELD]
    return upheld[0] if len(last) > 2 and len(upheld) == 1 else None


def arrow_letter(line: str) -> str | None:
    """Letter behind the arrow that ends a line."""
    match = _ARROW_LAST.search(line)
    return match[1] if match else None


def closing_letter(line: str) -> str | None:
    """The letter that the last sentence ends in: `i.e. option A`, `this is competitive inhibition (A)`, `Antwort A.`"""
    line = re.sub(r"~~.*?~~(?:,\s)?", "~", line.replace("i.e.", "ie").replace("e.g.", "eg"))
    sentence = _SENTENCE.split(line[-400:])[-1].strip()
    match = _ENDING.search(sentence)
    if match is None or sentence.endswith("?"):
        return None
    letters = re.findall(rf"(?<![A-Za-z]){_L}(?![A-Za-z])", match["named"] or match["wrapped"] or "")
    before = sentence[: match.start()]
    clause = re.split(r"[,;:]\s", before)[-1]
    # a clause that concludes by itself does not care for negations in the clauses before it
    said = clause if _CONCLUDES.match(clause) else before
    if len(letters) != 1 or HEDGED.search(said) or AGAINST.search(said):
        return None
    if ASIDE.match(said) and said is clause:
        return None
    if match["wrapped"] and REFERENCE.search(before) and not match["wrapped"].startswith("*"):
        return None
    if _MENTION.search(before) or re.search(rf"(?<![A-Za-z]){_L}\)?\s*(?:,|/|&|and|or)\s*$", before):
        return None
    if match["word"] and re.search(r"\b(?:from|of)\s+(?:the\s+)?$", before):
        return None
    return letters[0]
