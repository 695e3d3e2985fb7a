"""The choice of a reply: its last statement, else a ticked list, its final line, or the text of an option.

Where no announcement makes the choice, the letter must stand in an unmistakable form (behind `option`, in brackets,
emphasised), in a sentence that neither hedges nor compares nor eliminates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kvrepro.graders.cleaning import clean, unify_unicode
from kvrepro.graders.extract.answer import MAX_WORDING
from kvrepro.graders.extract.hedging import AGAINST, ASIDE, DOUBT
from kvrepro.graders.extract.statements import CHOICE_WORD, LETTER, LETTERS, read_choice, statements

# the gold's own words instead of a letter
GOLD_TEXT = "gold_text"
_UP, _DOWN = "✓✔☑✅🗸", "✗✘❌✖☒✕🗙"
_UPHELD = frozenset(["true", "correct", "right", "yes", *_UP])
_MARKER = rf"[ \t*>\-(\[|]*({LETTER})[)\].:*| \t]+"
# a verdict behind the letter of an option, a sign behind its text, before its letter, or several on a line
_TICKED = (
    re.compile(
        rf"(?i)(?:^|\n){_MARKER}(true|false|correct|incorrect|right|wrong|yes|no|[{_UP}{_DOWN}])\ufe0f?[.*| \t]*(?=\n"
        rf"|$)",
    ),
    re.compile(rf"(?:^|\n){_MARKER}[^\n{_UP}{_DOWN}]{{0,200}}?([{_UP}{_DOWN}])\ufe0f?[^\w\n]*(?=\n|$)"),
    re.compile(rf"(?:^|\n)[ \t*\-|]*([{_UP}{_DOWN}])\ufe0f?[*| \t]*[(\[]?({LETTER})(?![A-Za-z'])"),
    re.compile(rf"(?<![A-Za-z])[(\[*]*({LETTER})[)\].:*]*[ \t]*([{_UP}{_DOWN}])"),
)
_ARROW_LAST = re.compile(rf"(?:\\to|\\Rightarrow|=>|->)\s*[(\[*$]{{0,3}}({LETTER})[)\]*$.\s]{{0,4}}$")
_WORD = rf"(?:{CHOICE_WORD}|optie|antwoord|respuesta|resposta|risposta|odpowied[zź]|svar(?:et)?|ответ)"
_WRAPPED = rf"(?:\({LETTER}\)|\[{LETTER}\]|\*\*\(?{LETTER}\)?\.?\*\*|__{LETTER}__|`\(?{LETTER}\)?`|[\"']{LETTER}[\"'])"
_ENDING = re.compile(
    rf"(?i)(?:(?:\b{_WORD}(?:\b[^.;?]{{0,60}}?\sis)?|\b(?:remain\w*|left|survivor|verdict|pick"
    rf"|conclusion)\s*:)[\s*:=(\[$`\"']{{0,6}}(?P<named>{LETTER}(?![A-Za-z]))"
    rf"|(?P<wrapped>{_WRAPPED}))(?:\sonly)?[\s.*)\]$`\"'}}\\]*$",
)
_MENTIONED = re.compile(
    rf"(?i)\b{_WORD}s?\s+[*(\[]{{0,3}}{LETTER}\b|{_WRAPPED}|(?<![A-Za-z]){LETTER}\)?\s*(?:,|/|&|and|or)\s*$"
)
_SENTENCE = re.compile(r"(?<=[\w)\]*~`\"'])[.;!]\s+(?=\S)")
_CONCLUDES = re.compile(r"(?i)^\s*(?:and\s+)?(?:so|thus|hence|therefore|which|this|that|it|we|making|giving|leaving)\b")
_REFERENCE = re.compile(
    r"(?i)\b(?:in|from|by|of|see|eq\w*\.?|parts?|case|step|figure|line|like|with|statement|rule|law|form\w*|at"
    r"|structures?|schemes?|diagram|graph|table)[\s*]*$",
)
_OPTION_LINE = re.compile(
    rf"(?:^|\n)[ \t>*\-•]{{0,8}}[(\[]?({LETTER})[)\].:](?:\*\*)?[ \t]*(?:\*\*)?(\S[^\n]{{0,300}}?)\s*(?=\n|$)"
)
_INLINE_OPTION = re.compile(rf"\(({LETTER})\)\s*([^()\n]{{1,120}}?)(?=[\s,;]*\(({LETTER})\)|[\n]|[.;]\s|$)")
_CONTRASTED = re.compile(r"(?i),?\s*(?:and\s+)?(?:\bnot\b|rather than|instead of|unlike|as opposed to).*$")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def listed_options(text: str) -> dict[str, str]:
    """Options that a text lists, as `A) ...` lines or `(A) ... (B) ...`; needs at least two letters."""
    for pattern in (_OPTION_LINE, _INLINE_OPTION):
        options = {match[1]: match[2] for match in reversed(list(pattern.finditer(text[-20_000:])))}
        if len(options) >= 2:
            return options
    return {}


def _normalised(text: str) -> str:
    """Option text for comparison: no wrappers, case, spaces, or final stop."""
    text = _TEXT.sub(r"\1", clean(text)).casefold()
    return re.sub(r"[\s{}*$\\]|(?:^|(?<=\s))(?:a|an|the)\s", "", text).strip(".,;:\"'")


def letter_of_option(text: str, options: Mapping[str, str]) -> str | None:
    """Letter of the one option whose text equals `text`."""
    wanted = _normalised(text)
    found = [letter for letter, option in options.items() if wanted and _normalised(option) == wanted]
    return found[0] if len(found) == 1 else None


def _option_in(sentence: str, options: Mapping[str, str]) -> str | None:
    """Letter of the one option whose text a plain concluding sentence contains."""
    sentence, *texts = (
        re.sub(r"[^\w.+-]+", " ", clean(text).casefold()).strip(" .")
        for text in (_CONTRASTED.sub("", sentence), *options.values())
    )
    pairs = zip(options, texts, strict=True)
    found = [letter for letter, text in pairs if len(text) > 1 and f" {text} " in f" {sentence} "]
    return found[0] if len(found) == 1 and not DOUBT.search(sentence) else None


def decide(text: str, options: Mapping[str, str], gold_text: str | None = None) -> tuple[str | None, str, str | None]:
    """(letter, AMBIGUOUS, GOLD_TEXT or None; rule; answer as written) of a reply's answer part."""
    wanted = _normalised(gold_text) if gold_text else None
    found = statements(text)
    for said in reversed(found):
        if said.letter is not None:
            return said.letter, said.rule, said.text
        if letter := letter_of_option(said.text, options):
            return letter, "option_text", said.text
        if wanted and _normalised(said.text) == wanted:
            return GOLD_TEXT, "option_text", said.text
    if letter := _ticked(text[-MAX_WORDING:]):
        return letter, "verdicts", letter
    line = re.sub(r"^[#>*\s-]+(?=\S)", "", final_line(text[-MAX_WORDING:]))
    if not _is_listing(text):
        letter, rule = _of_line(line, options)
        if letter is not None:
            return letter, rule, line
    if match := _ARROW_LAST.search(unify_unicode(line)):
        return match[1], "final_line", line
    first = next((line.strip() for line in text[:MAX_WORDING].splitlines() if line.strip()), "")
    if re.fullmatch(rf"[*$(\[\s]{{0,4}}{LETTER}[*$)\]\s.:]{{0,5}}", first):
        return read_choice(first), "first_line", first
    return (None, found[-1].rule, found[-1].text) if found else (None, "none", None)


def final_line(text: str) -> str:
    """Last line that holds more than markup."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" *$\\[]()_-#")]
    return lines[-1] if lines else ""


def _of_line(line: str, options: Mapping[str, str]) -> tuple[str | None, str]:
    """(letter, rule) of a final line that is a choice, an option's text, or ends in either."""
    if len(line) < 400:
        letter = read_choice(line)
        if letter is not None and (len(line) < 40 or re.match(rf"^[\s*(\[$]*{LETTER}[)\].:*]", line)):
            return letter, "final_line"
        if letter := letter_of_option(line, options):
            return letter, "option_text"
    if letter := _closing_letter(line):
        return letter, "final_line"
    return (_option_in(line, options) if len(line) < 400 else None), "option_text"


def _is_listing(text: str) -> bool:
    """Is the final line the last of a list of options?"""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return len(lines) >= 2 and all(re.match(rf"^[\s*\-(\[]*({LETTER})[)\].:]", line) for line in lines[-2:])


def _ticked(text: str) -> str | None:
    """The one option that a list of verdicts upholds; lists of fewer than three say too little."""
    for pattern in _TICKED:
        pairs = [pair if pair[0] in LETTERS else pair[::-1] for pair in pattern.findall(text)]
        verdicts = {letter: word.casefold() for letter, word in pairs}
        upheld = [letter for letter, word in verdicts.items() if word in _UPHELD]
        if len(verdicts) > 2 and len(upheld) == 1:
            return upheld[0]
    return None


def _closing_letter(line: str) -> str | None:
    """The letter that the last sentence ends in: `i.e. option A`, `this is competitive inhibition (A)`, `Antwort A.`"""
    line = re.sub(r"~~.*?~~(?:,\s)?", "~", line.replace("i.e.", "ie").replace("e.g.", "eg"))
    sentence = _SENTENCE.split(line[-400:])[-1].strip()
    match = _ENDING.search(sentence)
    if match is None or _MENTIONED.search(sentence[: match.start()]):
        return None
    letters = re.findall(rf"(?<![A-Za-z]){LETTER}(?![A-Za-z])", match["named"] or match["wrapped"])
    before = sentence[: match.start()]
    clause = re.split(r"[,;:]\s", before)[-1]
    # a clause that concludes by itself does not care for negations in the clauses before it
    said = clause if _CONCLUDES.match(clause) else before
    if len(letters) != 1 or DOUBT.search(said) or AGAINST.search(said) or (said is clause and ASIDE.match(said)):
        return None
    if match["wrapped"] and _REFERENCE.search(before) and not match["wrapped"].startswith("*"):
        return None
    return letters[0]
