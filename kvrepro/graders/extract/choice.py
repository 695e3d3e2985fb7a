"""Letters of multiple-choice answers: from boxes, statements and final lines, or by the text of the option.

The last statement wins. Several letters at once, hedges, articles and symbols that happen to be letters give none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from kvrepro.graders.cleaning import unify_unicode
from kvrepro.graders.extract.announcements import (
    ANSWER_PHRASE,
    CHOICE_WORD,
    FITTING,
    LEADING_CHOICE,
    LOWER_CHOICE,
    MISTAKEN,
    PICKED,
    SOLE_CHOICE,
)
from kvrepro.graders.extract.answer import MAX_ANSWER, MAX_WORDING
from kvrepro.graders.extract.boxes import find_boxes
from kvrepro.graders.extract.last_letter import last_letter
from kvrepro.graders.extract.last_sentence import CONNECTOR, HAS_JOINER
from kvrepro.graders.extract.option_texts import LETTERS, letter_of_option, normalised, option_in
from kvrepro.graders.extract.verdicts import arrow_letter, closing_letter, ticked

AMBIGUOUS = "several"
MAX_BOXES = 200
_L = f"[{LETTERS}]"
_JOIN = r"(?:,|;|/|&|\+|and|or|or maybe|und|oder|et|ou|y|o|e|и|или|和|或|与|及|と|、)"
_ANOTHER = re.compile(
    rf"^[)\]\s}}$*.,]*\s*{_JOIN}\s*(?:option |choice |possibly |maybe |also )?[(\[\s$*{{]*({_L}"
    rf"|[a-k](?=[)\]]))(?![\w'])"
)
_ASKED = re.compile(
    rf"^[)\]}}*$`'\"\s]{{0,4}}\?+[*\s]*(?:(?P<no>no|not|wrong|but|cannot)\b"
    rf"|(?:(?:or|and|maybe|perhaps|possibly|could it be|also),?\s+)*(?:option |choice )?[(\[*$]{{0,3}}"
    rf"(?P<other>{_L})(?=[)\]*$?.,]|\s*$))?",
    re.IGNORECASE,
)
_REJECTED = re.compile(
    r"^[)\]\s}$*]*(?:\s*\([^)]*\))?\s*(?:is|are|was|would be|seems|looks|can be|must be|has"
    r" been)?\s*(?:also |clearly |definitely )?"
    r"(?:(?:wrong|incorrect|false)(?!\s*:)|not\b|ruled out|eliminated|excluded|out\b|invalid|impossible|isn't|can't"
    r"|cannot|doesn't)",
    re.IGNORECASE,
)
_POORLY = re.compile(r"^[)\s*]*[a-z]+\s+(?:poorly|badly|partly|only (?!one|option|choice|answer|correct))")
_ARTICLE = re.compile(
    r"^ +(?!because|since|as\b|is\b|and\b|or\b|for\b|with\b|by\b|due\b|from\b|based|so\b|given|if\b|here\b"
    r"|in\b|among|not\b|\w+s the)[a-z]"
)
_OPEN = r"[\s(\[{$*:\"'`_<•-]{0,12}(?:\\(?:text|textbf|mathrm|mathbf|boxed|bf|rm|textit)\s{0,2}\{?[\s(\[{*]{0,6}){0,4}"
_LETTER_AFTER = re.compile(
    rf"^{_OPEN}(?:(?:{CHOICE_WORD})\s*[:=]?\s*)?{_OPEN}({_L}|[a-k](?=\s*[)\]}}$*]|\s*\.?\s*$))", re.IGNORECASE
)
# `est donc la réponse A`, `ist somit Antwort B`, `é portanto a alternativa C`
_CONNECTIVE = re.compile(
    r"^\s*(?:(?:donc|alors|also|somit|daher|folglich|quindi|dunque|entonces|pues|portanto|logo|dus)\b,?\s*)?"
    rf"(?:(?:la|le|el|die|der|das|a|o|het|de)\s+(?=[*\s]*(?:{CHOICE_WORD})\b|[*(]{{0,3}}{_L}\W*$))?"
)
_DESCRIBED = re.compile(
    r"^(?:is|are|was|has|denotes|represents|stands|means)\b(?!\s+(?:therefore\s+|clearly\s+|indeed\s+)?(?:the\s+)?"
    r"(?:only\s+)?(?:most\s+)?(?:correct|right|best|true|answer|valid|accurate))"
)
# `Should I go with B?`
_INVERTED = re.compile(r"\b(?:should|shall|could|can|would|may|do)\s*$", re.IGNORECASE)
_SYMBOL_TAIL = re.compile(r"^(?:[A-Za-z0-9_^]|[=≡+'’²₂]|-[A-Za-z0-9]|\s*(?:=|\\to|→|<|>)\s*\S)")


@dataclass(frozen=True)
class Statement:
    """A place where the reply says its choice; `letter` is None for words instead of a letter."""

    position: int
    letter: str | None
    text: str
    rule: str


def read_choice(text: str) -> str | None:
    """Letter of a text that is nothing but a choice (a box, a final line); AMBIGUOUS for several, None for none."""
    text = unify_unicode(text)
    if labelled := re.match(rf"^\s*\$?({_L})\s*[,:.]?\s*\\(?:text|quad|;| )", text):
        following = _ANOTHER.match(re.sub(r"\\(?:text|quad|[; ])|[{}]", " ", text[labelled.end(1) :]))
        return AMBIGUOUS if following else labelled[1]
    text = re.sub(
        r"\\(?:text[a-z]*|math(?:rm|bf|sf|tt|it)|[mf]box|bf|rm|boldsymbol|bm|underline|operatorname|boxed)\s*(?=\{)"
        r"|\\(?:bf|rm)\b",
        "",
        text,
    )
    text = re.sub(r"\\[()\[\],;: !]|\\q?quad|[${}*`\"~]|\\left|\\right", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"^\((.*)\)$", r"\1", text) if text.count("(") == 1 and text.endswith(")") else text
    text = text.strip(" .,;:!")
    lead = re.compile(rf"^(?:{ANSWER_PHRASE.pattern}\s*[:=]?|{CHOICE_WORD})\s*:?\s*", re.IGNORECASE)
    for _ in range(3):
        text = lead.sub("", text).strip()
    text = re.sub(rf"^[(\[]\s*({_L})\s*[)\]]", r"\1)", text, flags=re.IGNORECASE).strip()
    if re.fullmatch(rf"({_L})\)?", text, re.IGNORECASE):
        return text[0].upper()
    if re.fullmatch(rf"[(\[]?{_L}[)\]]?(?:\s*{_JOIN}?\s*[(\[]?{_L}[)\]]?)+", text):
        return AMBIGUOUS
    match = re.match(rf"^({_L})(\s*[).:,\-=]|\s+|(?=\())(.*)$", text, re.DOTALL)
    if match is None:
        return None
    letter, mark, rest = match[1], match[2], match[3].strip()
    if _ANOTHER.match(text[1:]):
        return AMBIGUOUS
    if (_REJECTED.match(" " + rest) and mark.isspace()) or _POORLY.match(rest):
        return None
    if mark.strip() in ("=", "-") and not mark.startswith(" "):
        return None
    if mark.strip() == "=":
        return None
    if mark.isspace() and _DESCRIBED.match(rest):
        # `C is the capacitance`
        return None
    if mark.isspace() and (letter in "AI" or re.match(r"^[a-z]{3,}", rest)) and _ARTICLE.match(" " + rest):
        return None
    if mark.isspace() and re.match(r"^[+*/^<>=\\-]", rest) and not rest.startswith(("- ", "\\frac", "\\sqrt")):
        return None
    return letter


def statements(text: str) -> list[Statement]:
    """All statements of a choice in the reply's answer part, in order."""
    text = unify_unicode(text)
    found: list[Statement] = []
    end, last = 0, None
    for box in find_boxes(text)[-MAX_BOXES:]:
        if not box.is_empty and len(box.content) <= MAX_ANSWER:
            letter, between = read_choice(box.content), text[end : box.start]
            joined = len(between) < 60 and CONNECTOR.fullmatch(between) and HAS_JOINER.search(between)
            end, stated = box.end, letter
            if joined and last and letter and letter != last:
                # `$\boxed{B}$ and $\boxed{C}$` is no choice
                letter = AMBIGUOUS
            last = stated
            found.append(Statement(box.start, letter, box.content, "boxed"))
    # statements in words are searched for near the end only; `cut` puts them in order with the boxes
    cut = max(0, len(text) - MAX_WORDING)
    text = text[cut:]
    for match in ANSWER_PHRASE.finditer(text):
        found.extend(_after_phrase(text, match.start(), match.end()))
    for match in PICKED.finditer(text):
        sentence = re.split(r"[.,;\n]", text[max(0, match.start() - 120) : match.start()])[-1]
        if MISTAKEN.search(sentence) or _INVERTED.search(sentence):
            continue
        found.extend(_after_phrase(text, match.start(), match.end(), letters_only=True))
    for match in LEADING_CHOICE.finditer(text):
        letter = next(group for group in match.groups() if group)
        before = text[max(0, match.start() - 30) : match.start()]
        joined = re.search(rf"[(\[{{*$]?\b({_L})\b[)\]}}*$]*\s*{_JOIN}\s*(?:option |choice )?$", before)
        is_joined = joined is not None and joined[1] != letter
        found.append(Statement(match.start(), AMBIGUOUS if is_joined else letter, match[0].strip(), "statement"))
    for match in LOWER_CHOICE.finditer(text):
        found.append(Statement(match.start(), match[1].upper(), match[0], "statement"))
    fitting = [(match.start(), match[1] or match[2], match[0]) for match in FITTING.finditer(text)]
    for start, letter, said in fitting:
        # two options that fit are no choice
        several = len({other for _, other, _ in fitting}) > 1
        found.append(Statement(start, AMBIGUOUS if several else letter, said, "statement"))
    for match in SOLE_CHOICE.finditer(text):
        found.append(Statement(match.start(), match[1] or match[2] or match[3], match[0], "statement"))
    placed = [s if s.rule == "boxed" else replace(s, position=s.position + cut) for s in found]
    return sorted(placed, key=lambda statement: statement.position)


def _after_phrase(text: str, start: int, end: int, letters_only: bool = False) -> list[Statement]:
    tail = re.sub(r"\\[()\[\]]", " ", text[end : end + 300])
    found = []
    for _ in range(4):
        negated = re.match(r"^\s*(?:definitely |clearly |probably )?not\b\s*", tail)
        if negated:
            rest = re.search(r"\b(?:but|rather|instead|it is|it's|so)\b\s*", tail)
            if rest is None:
                return found
            tail = tail[rest.end() :]
            continue
        tail = re.sub(
            r"^\s*(?:clearly|definitely|therefore|thus|probably|most likely|likely|indeed|simply|just)\b,?", "", tail
        )
        tail = _CONNECTIVE.sub("", tail)
        match = _LETTER_AFTER.match(tail)
        if match is None:
            break
        letter, after = match[1], tail[match.end() :]
        if letter.islower() and not re.match(r"^\s*(?:[)\]}$*]|\.?\s*$)", after):
            break
        if _REJECTED.match(after):
            rest = re.search(
                r"\b(?:so|but|hence|thus|therefore|leaving|instead)\b,?\s*(?:it(?: is|'s)|the answer is|choose"
                r"|only)?\s*",
                after,
            )
            if rest is None:
                return found
            tail = after[rest.end() :]
            continue
        if asked := _ASKED.match(after):
            # `A? Or perhaps B?` weighs, `A? No.` takes it back; `A?` alone answers
            if asked["no"]:
                return found
            if asked["other"]:
                return [*found, Statement(start, AMBIGUOUS, tail[:60], "statement")]
        if _ANOTHER.match(after):
            return [*found, Statement(start, AMBIGUOUS, tail[:60], "statement")]
        is_quoted = tail[: match.start(1)].endswith(("'", "<", '"')) and after.startswith(("'", ">", '"'))
        if _SYMBOL_TAIL.match(after) and not re.match(r"^['’](?:s\b|[dt][iıuü]r)", after) and not is_quoted:
            break
        opened = bool(re.search(r"[(\[{*$]", tail[: match.start(1)]))
        colon = text[start:end].rstrip().endswith(":")
        if letter == "A" and not opened and colon and _ARTICLE.match(after):
            break
        if letter == "I" and not opened and re.match(r"^\s+\w", after):
            break
        return [*found, Statement(start, letter.upper(), tail[:60].strip(), "statement")]
    words = re.split(r"\n|(?<=[a-z)\]0-9])\.(?:\s|$)", tail.strip(), maxsplit=1)[0].strip(" *.:$")
    if words and not letters_only:
        found.append(Statement(start, None, words, "phrase"))
    return found


def final_line(text: str) -> str:
    """Last line that holds more than markup."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" *$\\[]()_-#")]
    return lines[-1] if lines else ""


def decide(text: str, options: Mapping[str, str], gold_text: str | None = None) -> tuple[str | None, str, str | None]:
    """(letter or AMBIGUOUS or None, rule, answer as written) of a reply's answer part."""
    found = statements(text)
    seen: Iterable[Statement] = reversed(found)
    fallback: Statement | None = None
    for statement in seen:
        if statement.letter is not None:
            return statement.letter, statement.rule, statement.text
        if letter := letter_of_option(statement.text, options):
            return letter, "option_text", statement.text
        if gold_text and normalised(statement.text) == normalised(gold_text):
            return "gold_text", "option_text", statement.text
        fallback = fallback or statement
    if letter := ticked(text[-MAX_WORDING:]):
        return letter, "verdicts", letter
    line = re.sub(r"^[#>*\s-]+(?=\S)", "", final_line(text[-MAX_WORDING:]))
    letter = read_choice(line) if len(line) < 400 else None
    if (
        letter is not None
        and (len(line) < 40 or re.match(rf"^[\s*(\[$]*{_L}[)\].:*]", line))
        and not _is_listing(text, line)
    ):
        return letter, "final_line", line
    if len(line) < 400 and (letter := letter_of_option(line, options)) and not _is_listing(text, line):
        return letter, "option_text", line
    if (letter := closing_letter(line)) and not _is_listing(text, line):
        return letter, "final_line", line
    if options and len(line) < 400 and not _is_listing(text, line) and (letter := option_in(line, options)):
        return letter, "option_text", line
    if gold_text and line and normalised(line) == normalised(gold_text):
        return "gold_text", "option_text", line
    if letter := arrow_letter(unify_unicode(line)):
        return letter, "final_line", line
    first = next((line.strip() for line in text[:MAX_WORDING].splitlines() if line.strip()), "")
    if re.fullmatch(rf"[*$(\[\s]{{0,4}}{_L}[*$)\]\s.:]{{0,5}}", first):
        return read_choice(first), "first_line", first
    if not found and len(line) < 400 and not _is_listing(text, line) and (letter := last_letter(line)):
        return letter, "last_letter", line
    if fallback is not None:
        return None, fallback.rule, fallback.text
    return None, "none", None


def _is_listing(text: str, line: str) -> bool:
    """Is the final line the last of a list of options?"""
    lines = [other.strip() for other in text.splitlines() if other.strip()]
    marker = re.compile(rf"^[\s*\-(\[]*({_L})[)\].:]")
    return len(lines) >= 2 and bool(marker.match(lines[-1])) and bool(marker.match(lines[-2]))
