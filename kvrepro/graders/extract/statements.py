"""Statements of a choice in a reply: letters in boxes, behind announcements, before verdicts; the last one wins.

`read_choice` reads a text that is nothing but a choice. Several letters at once, hedges, articles and symbols that
happen to be letters are no choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from kvrepro.graders.cleaning import clean, unify_unicode
from kvrepro.graders.extract.announcements import ANSWER_PHRASE
from kvrepro.graders.extract.answer import MAX_ANSWER, MAX_WORDING
from kvrepro.graders.extract.boxes import find_boxes, is_joined
from kvrepro.graders.extract.hedging import DOUBT
from kvrepro.graders.words import plain

LETTERS = "ABCDEFGHIJK"
LETTER = f"[{LETTERS}]"
# several letters at once
AMBIGUOUS = "several"
CHOICE_WORD = (
    r"(?:the\s+)?(?:correct\s+)?(?:option|choice|answer choice|letter|statement|alternative)|opci[oó]n|r[eé]ponse"
    r"|antwort|alternativa|op[cç][aã]o|вариант|选项|選択肢|opzione|opcja|[(]?الخيار"
)
_ADVERB = r"(?:(?:therefore|thus|clearly|indeed|definitely|then|alone|also|probably)\s+)?"
_JOINER = r"(?:,|;|/|&|\+|and|or|or maybe|und|oder|et|ou|y|o|e|и|или|和|或|与|及|と|、)"
_ANOTHER = re.compile(
    rf"^[)\]\s}}$*.,]*\s*{_JOINER}\s*(?:option |choice |possibly |maybe |also )?[(\[\s$*{{]*({LETTER}"
    r"|[a-k](?=[)\]]))(?![\w'])"
)
_REJECTED = re.compile(
    rf"(?i)^[)\]\s}}$*]*(?:\s*\([^)]*\))?\s*(?:is|are|was|would be|seems|looks|can be|must be|has been)?\s*{_ADVERB}"
    r"(?:(?:wrong|incorrect|false)(?!\s*:)|not\b|ruled out|eliminated|excluded|out\b|invalid"
    r"|impossible|isn't|can't|cannot|doesn't)",
)
# the article of a noun, not a choice
_ARTICLE = re.compile(
    r"^ +(?!because|since|as\b|is\b|and\b|or\b|for\b|with\b|by\b|due\b|from\b|based|so\b|given|if\b|here\b"
    r"|in\b|among|not\b|\w+s the)[a-z]"
)
_POORLY = re.compile(r"^[)\s*]*[a-z]+\s+(?:poorly|badly|partly|only (?!one|option|choice|answer|correct))")
_DESCRIBED = re.compile(
    rf"^(?:is|are|was|has|denotes|represents|stands|means)\b(?!\s+{_ADVERB}(?:(?:the|only|most)\s+)*(?:correct|right"
    r"|best|true|answer|valid|accurate))"
)
_LEAD = re.compile(rf"(?i)^(?:(?:(?:the|final|correct|right|best)\s+)*answer\s*(?:is|:|=)|{CHOICE_WORD})\s*[:=]?\s*")
_SEVERAL = re.compile(rf"[(\[]?{LETTER}[)\]]?(?:\s*{_JOINER}?\s*[(\[]?{LETTER}[)\]]?)+")
MAX_BOXES = 200
# what may stand around a letter
_OPENING, _CLOSING = r"(?:\\text\{)?[(\[*$]{0,4}", r"[)\]*$}]{0,4}"
_NAMED = r"\b(?i:option|choice|answer|statement)"
_PICKED = re.compile(
    r"(?im)(?:\b(?:i|we|i'm|i am|i'd|i would|i'll|let's|you should|one should)\s+(?:(?:will|would|therefore|should"
    r"|must)\s+)?(?:choose|pick|select|go with|going with|say)|\b(?:choose|pick|select)\b(?!\s+(?:from|between|one"
    r"|any))|\b(?:so|thus|hence|therefore|consequently|making|it must be|it is|it's|this is|that is|that's|which is"
    r"|which means|(?:best\s+)?(?:described|explained|given|represented|supported|answered|captured"
    r"|identified)\s+(?:best\s+)?(?:by|as)|corresponds to|closest to|match(?:es|ing)?|corresponding to|leads to"
    r"|points to|leaves|leaving|leaves us with|gives)(?:\s+only|,? (?:however|therefore|thus|indeed))?,?\s*(?:it is "
    r"|it's |it must be |this is )?(?=(?:\*\*|\\\(|\$|\s){0,4}(?:[(\[]?(?:the\s+)?(?:correct\s+)?(?:option|choice"
    r"|answer choice|statement)\b|[(\[][A-K][)\]]|\\text(?:bf)?\{\s*\(?[A-K]|\*\*[A-K]\*\*|[A-K]\s*\.?\s*(?:$"
    r"|\n))))\s*"
)
# `Should I go with B?`, and what makes `choose A` a report of somebody's mistake
_INVERTED = re.compile(r"(?i)\b(?:should|shall|could|can|would|may|do)\s*$")
_OTHERS = re.compile(r"(?i)\b(?:error|avoid|someone|students?|people|many|others|some|most)\b")
# a letter as the subject of a sentence or behind `option`; behind brackets it may stand anywhere
_BEFORE_SUBJECT = (
    r"^|(?i:(?<=[.;,:]\s)|(?<=\bonly\s)|(?<=\bthat\s)|(?<=\bbut\s)|(?<=\bso\s)|(?<=\bhence\s)|(?<=\bthus\s))"
)
_SUBJECT = rf"(?:{_NAMED}\s+|{_BEFORE_SUBJECT})(?:[*$]{{0,3}}\((?=[A-K]\)))?[\[*$]{{0,4}}([A-K])\b{_CLOSING}"
_FITS = "satisfies|works|fits|matches|passes|remains|meets|holds|makes sense|agrees|is left|is consistent|survives|wins"
# `option (B) is correct`, `B works best.`: nothing may follow that takes some of it back
_RIGHT = re.compile(
    rf"(?m)(?:(?:(?:{_NAMED}|\b(?:opción|вариант))\s*|(?<![A-Za-z\\*$]))(?:\*\*|\$|\\text(?:bf)?\{{){{0,3}}"
    rf"[(\[]([A-K])[)\]](?:\*\*|\$|\}}){{0,3}}|{_SUBJECT})\s{{0,3}}(?:(?:is|are|must be|would be|seems(?: to be)?"
    rf"|appears(?: to be)?|looks(?: like)?|being|remains)\s+{_ADVERB}(?:the\s+)?(?:only\s+)?(?:one\s+(?:that is"
    r"|which is)\s+)?(?:best |most |factually )?(?:correct|right|true|answer|accurate|valid|best choice|appropriate"
    r"|plausible|likely|suitable|reasonable|consistent|one|option|choice|possibility|better(?:\s+(?:answer|choice"
    r"|option|fit|one|supported))?(?=\s*(?:[.!]|$)))(?!\s+(?:about|that|in|but|for)\b)"
    rf"|{_ADVERB}(?P<fits>{_FITS})\b(?:\s+(?:best|perfectly|exactly|better|all|both|every|everything|here|the (?:data"
    r"|description|evidence|observations?|spectrum|facts|conditions?|definition))\b(?:\s+(?:the|of the)?\s*[a-z]+){0,2}"
    r")?\s*(?:[.;!*]|$))"
)
# the one option that others are set against: `Only C satisfies both`, `All options except C are wrong`; a small letter
# is a choice only where `the answer` follows
_SOLE = re.compile(
    rf"(?m)(?:\b[Oo]nly\s+(?:{_NAMED}\s+)?|[;,]\s+(?:(?:so|and|thus|hence|only)\s+)*){_OPENING}([A-K]){_CLOSING}\s+"
    rf"(?:{_FITS})\b|\b(?:[Aa]ll|[Ee]very)\b[^.\n]{{0,30}}\b(?:except|but|other than)\s+(?:for\s+)?(?:{_NAMED}\s+)?"
    rf"{_OPENING}([A-K]){_CLOSING}\s+(?:are|is|can be|were)\s+{_ADVERB}(?:wrong|incorrect|false|eliminated|ruled out)"
    rf"|(?:^|(?<=[.;,:]\s)){_OPENING}([a-k]){_CLOSING}\s+(?:is|must be)\s+{_ADVERB}(?:the|our|my)\s+(?:correct\s+"
    r"|right\s+|best\s+|final\s+)?(?:answer|choice|option)\b"
)
_ASKED = re.compile(
    rf"(?i)^[)\]}}*$`'\"\s]{{0,4}}\?+[*\s]*(?:(?P<no>no|not|wrong|but|cannot)\b|(?:(?:or|and|maybe|perhaps|possibly"
    rf"|could it be|also),?\s+)*(?:option |choice )?[(\[*$]{{0,3}}(?P<other>{LETTER})(?=[)\]*$?.,]|\s*$))?"
)
_OPEN = r"[\s(\[{$*:\"'`_<•-]{0,12}(?:\\(?:text|textbf|mathrm|mathbf|boxed|bf|rm|textit)\s{0,2}\{?[\s(\[{*]{0,6}){0,4}"
_LETTER_AFTER = re.compile(
    rf"(?i)^{_OPEN}(?:(?:{CHOICE_WORD})\s*[:=]?\s*)?{_OPEN}({LETTER}|[a-k](?=\s*[)\]}}$*]|\s*\.?\s*$))"
)
# `est donc la réponse A`, `ist somit Antwort B`, `é portanto a alternativa C`
_CONNECTIVE = re.compile(
    r"^\s*(?:(?:clearly|definitely|therefore|thus|probably|most likely|likely|indeed|simply|just|donc|alors|also|somit"
    r"|daher|folglich|quindi|dunque|entonces|pues|portanto|logo|dus)\b,?\s*)?"
    rf"(?:(?:la|le|el|die|der|das|a|o|het|de)\s+(?=[*\s]*(?:{CHOICE_WORD})\b|[*(]{{0,3}}{LETTER}\W*$))?"
)
_SYMBOL_TAIL = re.compile(
    r"^(?!['’](?:s\b|[dt][iıuü]r))(?:[A-Za-z0-9_^]|[=≡+'’²₂]|-[A-Za-z0-9]|\s*(?:=|\\to|→|<|>)\s*\S)"
)
_JOINED = re.compile(rf"[(\[{{*$]?\b({LETTER})\b[)\]}}*$]*\s*{_JOINER}\s*(?:option |choice )?$")
# the same sentence withdraws it
_TORN = re.compile(r"(?i)[^.\n]{0,40}\btorn between\b")
_NEGATED = re.compile(rf"^\s*{_ADVERB}not\b\s*")
_INSTEAD = re.compile(
    r"\b(?:but|rather|instead|it is|it's|so|hence|thus|therefore|leaving)\b,?\s*(?:it is|it's|the answer is)?\s*"
)


@dataclass(frozen=True)
class Statement:
    """A place where the reply says its choice; `letter` is None for words instead of a letter."""

    position: int
    letter: str | None
    text: str
    rule: str = "statement"


def statements(text: str) -> list[Statement]:
    """All statements of a choice in the reply's answer part, in order; those in words near its end only."""
    text = unify_unicode(text)
    found = [*_in_boxes(text), *_in_words(text, max(0, len(text) - MAX_WORDING))]
    return sorted(found, key=lambda statement: statement.position)


def _in_boxes(text: str) -> list[Statement]:
    found: list[Statement] = []
    end, last = 0, None
    for box in find_boxes(text)[-MAX_BOXES:]:
        if box.is_empty or len(box.content) > MAX_ANSWER:
            continue
        letter = stated = read_choice(box.content)
        if last and letter and letter != last and is_joined(text[end : box.start], needs_word=True):
            # `$\boxed{B}$ and $\boxed{C}$` is no choice
            letter = AMBIGUOUS
        end, last = box.end, stated
        found.append(Statement(box.start, letter, box.content, "boxed"))
    return found


def _in_words(text: str, start: int) -> Iterator[Statement]:
    for match in ANSWER_PHRASE.finditer(text, start):
        yield from _after_phrase(text, match.start(), match.end())
    for match in _PICKED.finditer(text, start):
        sentence = re.split(r"[.,;\n]", text[max(0, match.start() - 120) : match.start()])[-1]
        if not (DOUBT.search(sentence) or _OTHERS.search(sentence) or _INVERTED.search(sentence)):
            yield from (said for said in _after_phrase(text, match.start(), match.end()) if said.letter)
    right = [(match, match[1] or match[2]) for match in _RIGHT.finditer(text, start)]
    n_fitting = len({letter for match, letter in right if match["fits"]})
    for match, letter in right:
        joined = _JOINED.search(text[max(0, match.start() - 30) : match.start()])
        # two options that are joined, or that fit, are no choice
        is_several = (joined and joined[1] != letter) or (match["fits"] and n_fitting > 1)
        yield Statement(match.start(), AMBIGUOUS if is_several else letter, match[0].strip())
    for match in _SOLE.finditer(text, start):
        yield Statement(match.start(), next(filter(None, match.groups())).upper(), match[0])


def _after_phrase(text: str, start: int, end: int) -> list[Statement]:
    """What follows an announcement: a letter, several, or words, which may be an option's text."""
    tail = re.sub(r"\\[()\[\]]", " ", text[end : end + 300])
    is_colon = text[start:end].rstrip().endswith(":")
    # a letter that is negated or rejected may be followed by the one that is meant
    for _ in range(4):
        after = tail
        if not _NEGATED.match(tail):
            tail = _CONNECTIVE.sub("", tail)
            match = _LETTER_AFTER.match(tail)
            if match is None or _is_symbol(match, tail, is_colon):
                break
            letter, after = match[1], tail[match.end() :]
            if not _REJECTED.match(after):
                asked = _ASKED.match(after)
                # `A? No.` takes it back, `A? Or perhaps B?` weighs; `A?` alone answers
                is_several = (asked and asked["other"]) or _ANOTHER.match(after) or _TORN.match(after)
                said = Statement(start, AMBIGUOUS if is_several else letter.upper(), tail[:60].strip())
                return [] if asked and asked["no"] else [said]
        instead = _INSTEAD.search(after)
        if instead is None:
            return []
        tail = after[instead.end() :]
    words = re.split(r"\n|(?<=[a-z)\]0-9])\.(?:\s|$)", tail.strip(), maxsplit=1)[0].strip(" *.:$")
    return [Statement(start, None, words, "phrase")] if words else []


def _is_symbol(match: re.Match[str], tail: str, is_colon: bool) -> bool:
    """Is the letter part of a word or a formula, or an article?"""
    letter, before, after = match[1], tail[: match.start(1)], tail[match.end() :]
    if letter.islower() and not re.match(r"^\s*(?:[)\]}$*]|\.?\s*$)", after):
        return True
    is_quoted = before.endswith(("'", "<", '"')) and after.startswith(("'", ">", '"'))
    if (_SYMBOL_TAIL.match(after) and not is_quoted) or re.search(r"[(\[{*$]", before):
        return bool(_SYMBOL_TAIL.match(after)) and not is_quoted
    return bool((_ARTICLE.match(after) and is_colon) if letter == "A" else letter == "I" and re.match(r"^\s+\w", after))


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
    if _SEVERAL.fullmatch(text) or (match and _ANOTHER.match(text[1:])):
        return AMBIGUOUS
    if match is None or match[2].strip() == "=" or match[2].startswith("-") or _POORLY.match(match[3].strip()):
        return None
    return None if match[2].isspace() and _is_prose(match[1], match[3].strip()) else match[1]


def _is_prose(letter: str, rest: str) -> bool:
    """Does the letter begin a sentence (`A mass of ...`, `C is the capacitance`, `B is wrong`) or a formula?"""
    if _REJECTED.match(" " + rest) or _DESCRIBED.match(rest):
        return True
    if (letter in "AI" or re.match(r"^[a-z]{3,}", rest)) and _ARTICLE.match(" " + rest):
        return True
    return bool(re.match(r"^[+*/^<>=\\-]", rest)) and not rest.startswith(("- ", "\\frac", "\\sqrt"))
