"""The answer of a reply that neither boxes nor announces one: the value of its last line or of its last sentence.

Each rule reads one shape of a conclusion: a line that is nothing but a value, a table's last row, a count in front of
the list of what it counts, a bold value, a sentence with exactly one value or that ends in one. Hedged, negated,
conditional and checking sentences give none (`hedging`): no answer is better than one that the reply did not commit to.
"""

from __future__ import annotations

import re
from itertools import pairwise

from kvrepro.graders.cleaning import unify_unicode
from kvrepro.graders.compare.units import find_quantity, read_unit
from kvrepro.graders.extract.boxes import is_joined
from kvrepro.graders.extract.hedging import ASIDE, CHECK, CONTRAST, DOUBT, HEDGE, REASON, REVISION
from kvrepro.graders.words import number_in_words

MATHS = re.compile(r"(?s)\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]")
SENTENCE_END = re.compile(r"(?<=[^\d.])\.(?=\s|$)|(?<=\d)\.(?=\s|$)|\n|(?<![\\A-Za-z])!(?=\s|$)|\?(?=\s|$)")
_CJK = r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"
_VALUE = re.compile(
    r"-?\\?\$?(?:\d+(?:,\d{3})*(?:\.\d+)?(?:\s\d+/\d+|/\d+)?|\.\d+)(?:\s*\\?%|\s*\^\\circ\s*[CF]?"
    r"|[\s-]*[A-Za-z][A-Za-z.]*(?:\^\{?-?\d\}?)?(?:\s*[ /]\s*[A-Za-z]+(?:\^\{?-?\d\}?)?){0,3})?"
)
_NUMBERS = re.compile(
    r"(?<![\w.^_/])(?<![_^]\{)-?\\?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d{1,3}(?: \d{3})+(?!\d)|\d+)?(?:\.\d+)?(?<=\d)"
    r"(?:\s\d+/\d+|/\d+)?(?:\s?\\?%|\s?\^\\circ(?:\s?[CF]\b)?)?(?![\w^]|\.\d)"
)
_TIME_OF_DAY = re.compile(r"(?i)(?<![\d:])\d{1,2}:\d{2}(?!\d|:)(?:\s*[ap]\.?\s?m\b\.?)?")
_BOLD = re.compile(r"(?:\*\*|__)(?!\s)(.+?)\s?(?:\*\*|__)")
# between two values of a sentence: what makes the second one the conclusion of the first
_LEADING = (
    r"is|are|equals?|be|becomes?|gives?|giving|yields?|yielding|makes?|making|gets?|obtain|find|leaves?|leaving|to|ist"
    r"|est|es|son|è|é|sono"
)
_LEADS = re.compile(rf"(?i)=|\\approx|\b(?:{_LEADING}|so|thus|hence|therefore|altogether|total|sum|which)\b|[是为得]")
_VERBS = (
    rf"(?:\b(?:{_LEADING}|was|have|has|contains?|holds?|takes?|costs?|weighs?|measures?|totals?|needs?|used?|sells?"
    rf"|runs?"
    r"|walks?|rides?|comes? out|arrives?|at|of|as|sind|beträgt|vale|wynosi|равн\w+|составляет)\b"
    r"|等于|得到?|就是|[是为有共は])"
)
_VERB = re.compile(rf"(?i){_VERBS}")
# a sentence that names a value right behind its verb: `The total is 48`, `o valor é 18`
_STATED = re.compile(
    rf"(?i)(?:{_VERBS}|=)[\s:*]*(?:(?:exactly|about|approximately|roughly|only|just|therefore|thus"
    rf"|simply)\s+)?[\s*(\\$]*$"
)
# a verb of the third person, a comma or a colon lets a value stand for itself: `the jug holds **3** litres`
_LEADS_TO_BOLD = re.compile(
    r"(?i)(?:[:,]|\b(?!(?:this|us|cases|plus|minus|times|less|unless|ways|steps|parts|numbers|values|was)\b)[a-z]{2,}s"
    r"|\b(?:total|sum|product|area|number|probability) of)[\s$(]*$"
)
_CONCLUSION = re.compile(
    r"(?i)^(?:so|thus|therefore|hence|consequently|finally|in total|in conclusion|altogether|this gives"
    r"|we (?:get|have|find|obtain|conclude))\b"
)
_TOTAL = re.compile(
    r"(?i)^[\s*\-+•]*(?:(?:the|grand|final|overall)\s+)*(?:total|sum|altogether|result|answer|in all|final|value)"
)
# `or in degrees 90`, `or simply 5` say the same once more
_RESTATED = re.compile(r"(?i)\bor,?\s+(?=in\b|equivalently\b|simply\b|just\b|expressed\b)")
_COUNTED = re.compile(
    r"^[^$\d\\]*\b(?:has|have|are|is|find|get|obtain)\s+(?:exactly\s+|precisely\s+|only\s+)?\**(\d+)\**\s+"
    r"[A-Za-z][A-Za-z -]*\**\s*(?::|\(|,\s*namely|-)\s*(?=.*\d)",
)
_NUMBERED = re.compile(
    r"(?i)\b(?:case|step|part|row|line|equation|figure|theorem|problem|chapter|method|attempt)s?\s*$"
)
_ENTRY = re.compile(r"^\s*(?:[-+*•]\s|\d+[.)]\s|\|)|^\s*\**[A-Z][^:.\n]{0,30}:")
# the exponent of a unit, which is no number of the sentence: `15 cm^{2}`
_UNIT_POWER = re.compile(r"(\d\s*(?:sq\.?\s)?[A-Za-z]{1,12}(?:/[A-Za-z]{1,6})?)\s*\^\{?-?\d\}?(?![\w}])")
_UNIT = re.compile(
    r"^\s*(?:([ap]\.?m\b|percent|[bmtr]+illion|hundred|thousand|dozen|o'clock(?:\s+(?:in the|at)\s+[a-z]+)?)"
    r"|((?:square |cubic )?[A-Za-z]{1,12}(?:/[A-Za-z]{1,6})?(?:\^\{?-?\d\}?)?)(?![\w{]))"
)
_WORD_OF_NUMBER = re.compile(r"(?i)hundred|thousand|and|a|half|thirds?|quarters?")
# words in parentheses behind a value, unless they belong to it; those anywhere
_REMARK = re.compile(
    r"^(.*\d.*?)\s+\((?!\W*(?:mod|base|or|not|if|unless|maybe|perhaps)\b)((?:[^()]|\([^()]*\))*)\)[\s.*]*$"
)
_REMARKS = re.compile(r"\s*(?<!\\)\((?!\\|[-\d\s,./]*\))[^()]{6,}\)")
_ROWS = re.compile(
    r"(?s)\\begin\{(?P<name>align|aligned|gather|gathered|equation|split|eqnarray)(\*?)\}"
    r"((?:(?!\\begin).)*)\\end\{(?P=name)\2\}[\s$.\]\\]*$"
)
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)|\\approx(?![A-Za-z])")


def formula_in(match: re.Match[str]) -> str:
    """What a match of `MATHS` holds between its delimiters."""
    return next(filter(None, match.groups()))


def without_remark(text: str) -> str:
    """Without a remark in parentheses at the end: `204 minutes (3 hours and 24 minutes)`.

    Only what has words or an equality is a remark; `(1, 2)`, `f(x)` and `(mod 7)` are none.
    """
    match = _REMARK.match(text) if len(text) < 1000 else None
    says = match and re.search(r"(?<![\\A-Za-z])[A-Za-z]{3,}|=|\\equiv|\\approx", match[2])
    return match[1] if match and says else text


def _lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip(" *$_-#>`")]


def concluded(text: str, is_numeric: bool = False) -> str | None:
    """A last line that is nothing but a value, or a concluding sentence with exactly one value.

    Args:
        text: the answer part of a reply, without boxes.
        is_numeric: whether a count may be read in front of what it counts.
    """
    text = unify_unicode(text)
    text = re.sub(r"\$\s*(\^\s*\{?\s*-?\d\s*\}?)\s*\$", lambda m: m[1].replace(" ", ""), text)
    lines = _lines_of(re.sub(rf"(?<={_CJK})(?=-?\d)|(?<=\d)(?={_CJK})", " ", text))
    if not lines:
        return None
    if lines[-1].startswith("|"):
        return _table_value(lines[-1])
    line = re.sub(r"^[>#\-*\s]+(?=\S)", "", without_remark(lines[-1])).strip(" *`")
    line = re.sub(rf"{_TOTAL.pattern}[^:$\\\d]{{0,30}}:[\s*]*(?=\S)", "", line)
    if (value := _whole_line(text, lines, line.rstrip(".").strip(" *"))) is not None:
        return value
    if re.search(r"(?i)\b(?:cannot|can't|could not|unable to|not enough|don't know)\b|\?$", line):
        return None
    if is_numeric and (counted := _COUNTED.match(line)) and not ASIDE.match(line) and not HEDGE.search(line):
        return counted[1]
    sentences = [part.strip() for part in SENTENCE_END.split(line) if part.strip()]
    return _bold_value(lines[-1]) or (_sentence_value(sentences[-1][:300], len(lines) == 1) if sentences else None)


def _whole_line(text: str, lines: list[str], bare: str) -> str | None:
    """A last line that is one formula, a value, or one or two words that are the whole reply."""
    inner = MATHS.match(bare)
    if inner and inner.end() == len(bare):
        return formula_in(inner)
    if lines[-1] in ("\\]", "$$"):
        inner = re.search(r"(?s)(?:\\\[|\$\$)([^$]*?)(?:\\\]|\$\$)\s*$", text)
        return inner[1] if inner else None
    is_value = (
        re.fullmatch(r"[^\w]*[\w\\{}()\[\]^+*/.,=<>|$ %°π√-]{,60}", bare)
        and re.search(r"\d|\\", bare)
        and not re.search(r"[^\W\d_]{4,}|\*\*", re.sub(r"\\[A-Za-z]+(?:\{[^{}]*\})?", "", bare))
        and not re.match(rf"^\D*{_CJK}\D*\d", bare)
    )
    return bare if is_value or (len(lines) == 1 and re.fullmatch(r"[^\W\d_]+(?: [^\W\d_]+)?", bare)) else None


def _table_value(row: str) -> str | None:
    """The last cell of a table's last row, where that row is set off as the result."""
    cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
    value = cells[-1].strip(" *_$`")
    is_result = "**" in (cells[0][:2], cells[-1][:2]) or _TOTAL.match(cells[0])
    return value if is_result and not HEDGE.search(row) and re.search(r"\d|\\", value) and len(value) <= 60 else None


def _bold_value(line: str) -> str | None:
    """The one emphasised value of the last line, or its last one if the words before it sum up the others."""
    bold = [(match, match[1].strip(" :,").rstrip(".")) for match in _BOLD.finditer(line)]
    found = [match for match, bare in bold if _VALUE.fullmatch(bare.strip("$")) or MATHS.fullmatch(bare)]
    if not found:
        return None
    match = found[-1]
    start = max([end.end() for end in SENTENCE_END.finditer(line, 0, match.start())], default=0)
    end = SENTENCE_END.search(line, match.end())
    before, rest = line[start : match.start()], line[match.end() : end.end() if end else None]
    if len({other[1].strip(" .$") for other in found}) > 1 and not _LEADS.search(line[found[-2].end() : match.start()]):
        return None
    # what stands behind the value and gives reasons may hold any numbers
    rest = REASON.sub("", CONTRAST.sub("", rest))
    later = line[end.end() :] if end else ""
    if DOUBT.search(_RESTATED.sub("", before + " " + rest)) or CHECK.match(before) or REVISION.search(later):
        return None
    is_led = _STATED.search(before) or _LEADS_TO_BOLD.search(before) or not before.strip(" *>-")
    if not is_led and (rest.strip(" .*!:)") or _NUMBERED.search(before)):
        return None
    if re.match(r"^\s*(?:[-+*/=<>^]|and\b|,\s*(?:and\s+)?[\d$\\-])", rest) or re.search(r"\d\s*(?:and|,)\s*$", before):
        return None
    return match[1].strip(" $:").rstrip(".$: ") + _unit_behind(rest)


def _unit_behind(rest: str) -> str:
    """The unit or half of the day that follows a value, where it says more than a noun would."""
    match = _UNIT.match(rest)
    if match is None or match[1]:
        return match[0] if match else ""
    unit = read_unit(match[2]) if len(match[2]) > 2 or "^" in match[2] else None
    return " " + match[2] if unit and unit.dimensions else ""


def _sentence_value(last: str, is_alone: bool) -> str | None:
    """The one value of the last sentence, which concludes, states it behind a verb, or is the whole reply."""
    formulas = list(MATHS.finditer(last))
    is_plain = not ASIDE.match(last)
    is_conclusion = bool(_CONCLUSION.match(last)) or (is_alone and is_plain)
    times = _TIME_OF_DAY.findall(last)
    if len(times) == 1 and is_plain:
        return times[0].strip()
    if DOUBT.search(last):
        return None
    if formulas:
        gaps = [last[a.end() : b.start()] for a, b in pairwise(formulas)]
        return " , ".join(map(formula_in, formulas)) if is_conclusion and all(map(is_joined, gaps)) else None
    if is_conclusion and (quantity := find_quantity(last)):
        return quantity
    flat, last = last, _UNIT_POWER.sub(r"\1", last)
    numbers = [match[0].strip() for match in _NUMBERS.finditer(last)]
    if not numbers:
        return _number_word(last) if is_conclusion else None
    chances = re.findall(r"\b\d+ (?:in|out of) \d+\b", last)
    if len(chances) == 1 and len(numbers) == 2 and _STATED.search(last.partition(chances[0])[0]):
        return chances[0]
    before, unit = last.partition(numbers[0])[0], _unit_behind(flat.partition(numbers[0])[2])
    is_stated = is_plain and len(numbers) == 1 and (_STATED.search(before) or (unit and _LEADS_TO_BOLD.search(before)))
    return numbers[0] + unit if len(set(numbers)) == 1 and (is_conclusion or is_stated) else None


def _number_word(sentence: str) -> str | None:
    """The one number that a sentence spells out; `one` and `zero` are too often pronouns and adjectives."""
    said = [
        word if number_in_words(word) is not None or _WORD_OF_NUMBER.fullmatch(word) else "|"
        for word in re.findall(r"[A-Za-z-]+", sentence)
    ]
    found = [re.sub(r"^(?:a|and)\s|\s(?:a|and)$", "", run.strip()) for run in " ".join(said).split("|")]
    found = [run for run in found if number_in_words(run.split(" ")[0]) is not None]
    return found[0] if len(found) == 1 and found[0].lower() not in ("one", "zero") else None


def last_value(text: str) -> str | None:
    """The value that the last sentence ends in, behind a verb or an equals sign; None where it commits to none.

    A reply that ends `... so 9/2 expressed as a decimal is 4.5.` commits to 4.5 as much as one that boxes it. A few
    words or a remark in parentheses may follow.
    """
    text = unify_unicode(text).rstrip()
    if rows := _ROWS.search(text):
        last = re.split(r"\\\\(?:\[[^\]]*\])?", rows[3].strip(" \\&\n."))[-1]
        return _right_side(last.replace("&", " ")) if _EQUALS.search(last) and re.search(r"\d|\\", last) else None
    lines = _lines_of(text)
    if not lines or (len(lines) > 1 and all(map(_ENTRY.match, lines[-2:])) and not _TOTAL.match(lines[-1])):
        return None
    line = _REMARKS.sub("", re.sub(r"^[>#\-*\s]+(?=\S)|\*\*|__", "", lines[-1])).strip(" *`")
    last = next((s.strip() for s in reversed(SENTENCE_END.split(line)) if s.strip(" .,;")), "")
    if CHECK.match(last) or line.endswith("?") or len(last) > 400:
        return None
    formulas = list(MATHS.finditer(last))
    inside = [range(m.start(), m.end()) for m in formulas]
    numbers = [m for m in _NUMBERS.finditer(last) if m[0].strip() and not any(m.start() in span for span in inside)]
    *others, found = sorted([*formulas, *numbers], key=lambda m: m.start()) or [None]
    if found is None:
        return None
    before, behind = last[: found.start()], REASON.sub("", " " + last[found.end() :].lstrip())
    # what was doubted in an earlier clause does not matter, what is doubted in the last one does
    clause = re.split(r"[;:]\s|,\s(?:so|thus|hence|and so|therefore)\b", before)[-1]
    if DOUBT.search(clause) or DOUBT.search(behind) or re.search(r"[\d\\={}]|[,;]\s*$", behind):
        return None
    # raw assignments (`r=l-m; l=4, v=9`) are working, not a sentence: signs count inside a formula only
    is_formula = found.re is MATHS or _CONCLUSION.match(last)
    is_led = _VERB.search(before) or (is_formula and re.search(r"=|\\approx|:\s*$", before + found[0]))
    # `3 red and 4 blue` states two values, `2 of 8, so 1/4` one
    is_parallel = others and not _LEADS.search(last[others[-1].end() : found.start()] + found[0])
    if not is_led or is_parallel or len(behind.split()) > 6 or _NUMBERED.search(before):
        return None
    value = _right_side(formula_in(found) if found.re is MATHS else found[0])
    return value + _unit_behind(behind) if re.search(r"\d|\\", value) else None


def _right_side(formula: str) -> str:
    """What stands behind the last equals sign: `4 \\cdot 24 = 96` gives 96; `x^2 = 4, y = 3` is no single value."""
    parts = _EQUALS.split(formula)
    return "" if len(parts) > 2 and "," in formula else parts[-1].strip(" ,;$").rstrip(". ")
