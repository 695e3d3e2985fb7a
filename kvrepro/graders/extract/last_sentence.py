"""The answer of a reply that neither boxes nor announces one: the value of its last line.

Each rule reads one shape of a conclusion: a line that is nothing but a value, a table's last row, a count in front of
the list of what it counts, a labelled line, a bold value, a sentence with exactly one value. Hedged, negated,
conditional and checking sentences give none: no answer is better than a number that the reply did not commit to.
"""

from __future__ import annotations

import re

from kvrepro.graders.cleaning import unify_unicode
from kvrepro.graders.compare.quantities import find_quantity
from kvrepro.graders.compare.units import read_unit
from kvrepro.graders.extract.announcements import ASIDE, CONCLUSION, REVISION, STATED
from kvrepro.graders.words import number_in_words

CONNECTOR = re.compile(
    r"(?:[\s$,;&.*]|\\[()\[\],;: !]|\\q?quad|\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|\b(?:and|or|also)\b|[和或])*",
    re.IGNORECASE,
)
HAS_JOINER = re.compile(r"[,;&和或]|\b(?:and|or)\b", re.IGNORECASE)
MATHS = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
SENTENCE_END = re.compile(r"(?<=[^\d.])\.(?=\s|$)|(?<=\d)\.(?=\s|$)|\n|(?<![\\A-Za-z])!(?=\s|$)|\?(?=\s|$)")
REASON = re.compile(
    r",?\s+(?:i\.e\.?|that is|or equivalently|equivalently|or about|or approximately|because|since|as"
    r"|which|where|so|for|due|after|when|by|hence|thus|therefore|,)\b.*$",
    re.DOTALL | re.IGNORECASE,
)
_TIME_OF_DAY = re.compile(r"(?<![\d:])\d{1,2}:\d{2}(?!\d|:)(?:\s*[ap]\.?\s?m\b\.?)?", re.IGNORECASE)
_CONTINUING = ("hundred", "thousand", "and", "a", "half", "third", "thirds", "quarter", "quarters")
_UNABLE = re.compile(r"\b(?:cannot|can't|could not|unable to|not enough|don't know)\b", re.IGNORECASE)
_HEDGE = re.compile(r"\b(?:not|cannot|can't|unclear|maybe|might|perhaps|either|or|checked|try|guess)\b", re.IGNORECASE)
# further doubts that only matter where emphasis is all that marks the answer
_DOUBT = re.compile(
    r"\b(?:if|unless|would|could|might|wrong|incorrect|mistaken|mistake|instead|rather than|suspect|consider|considered"
    r"|unsure|neither|nor|except|first guess|probably|ruled? out|next step"
    r"|still (?:have|need)|look at|exclude)\b|n't\b|\?",
    re.IGNORECASE,
)
_WRONG = re.compile(r"\b(?:wrong|incorrect|mistaken|we (?:now )?(?:consider|split))\b", re.IGNORECASE)
_OPEN = re.compile(r"\b(?:ruled? out|still (?:have|has|need|needs)|(?:it )?remains to)\b", re.IGNORECASE)
# `90, not 45`
CONTRAST = re.compile(r"(?:,|\s\()\s*(?:and\s+)?(?:not|rather than|instead of)\s+[\d$\\*-].*$", re.DOTALL)
# `or in degrees 90`, `or simply 5` say the same once more
_RESTATED = re.compile(r"\bor,?\s+(?=in\b|equivalently\b|simply\b|just\b|expressed\b)", re.IGNORECASE)
_CJK = r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"
_CJK_STATED = re.compile(r"(?:共有|共|有|是|为|等于|得到?|应为|就是|は|が)\s*[:=]?\s*$")
_CJK_HEDGE = re.compile(r"不是|不等于|不为|没有|可能|也许|如果|假设|或者|若|检验|第\s*\d")
_NUMBER = r"-?\\?\$?(?:\d+(?:,\d{3})*(?:\.\d+)?(?:\s\d+/\d+|/\d+)?|\.\d+)"
_UNIT = (
    r"(?:\s*\\?%|\s*\^\\circ\s*[CF]?|[\s-]*[A-Za-z][A-Za-z.]*(?:\^\{?-?\d\}?)?"
    r"(?:\s*[ /]\s*[A-Za-z]+(?:\^\{?-?\d\}?)?){0,3})?"
)
_VALUE = re.compile(rf"{_NUMBER}{_UNIT}")
_BOLD = re.compile(r"(?:\*\*|__)(?!\s)(.+?)\s?(?:\*\*|__)")
# a verb of the third person, a comma or a colon lets an emphasised value stand for itself: `the jug holds **3** litres`
_LEADS_TO_BOLD = re.compile(
    r"(?:[:,]|\b(?!(?:this|us|cases|plus|minus|times|less|unless|ways|steps|parts|numbers|values|was)\b)[a-z]{2,}s"
    r"|\b(?:total|sum|product|area|number|probability) of)[\s$(]*$",
    re.IGNORECASE,
)
_VERB_LAST = re.compile(r"\b(?!(?:this|us|cases|plus|minus|times|less|unless|was)\b)[a-z]{2,}s\s*$")
_NUMBERED = re.compile(r"\b(?:case|step|part|row|line|equation|figure|theorem|method|attempt)\s*$", re.IGNORECASE)
_ASIDE_BOLD = re.compile(
    r"^[\s*_>-]*(?:(?:we|now|let us|here)\s+)*(?:check|verif|note|suppose|let|assum|recall|step|example|consider|try"
    r"|test|first|case|if|hint|split|us(?:e|ing)\b|in step)",
    re.IGNORECASE,
)
TOTAL = re.compile(
    r"^[\s*\-+•]*(?:(?:the|grand|final|overall)\s+)*(?:total|sum|altogether|result|answer|in all|final|value)", re.I
)
_LABELLED = re.compile(r"^[\s*]*([A-Z][^:$\\\d\n]{0,50}):[\s*]*(\S.*)$")
_LISTED = re.compile(r"^\s*(?:[-+*•]\s|\d+[.)]\s)")
_LAST_CLAUSE = re.compile(
    r"[,;]\s*(?:and\s+)?(?:so|thus|hence|therefore|giving|making|altogether|which (?:gives|makes|is|equals)"
    r"|(?:for|with) a total of)\b",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    r"^[^$\d\\]*\b(?:has|have|are|is|find|get|obtain)\s+(?:exactly\s+|precisely\s+|only\s+)?\**(\d+)\**\s+"
    r"[A-Za-z][A-Za-z -]*\**\s*(?::|\(|,\s*namely|-)\s*(?=.*\d)",
)
# the exponent of a unit, which is no number of the sentence: `15 cm^{2}`
_UNIT_POWER = re.compile(r"(\d\s*(?:sq\.?\s)?[A-Za-z]{1,12}(?:/[A-Za-z]{1,6})?)\s*\^\{?-?\d\}?(?![\w}])")
# words in parentheses that belong to the value
_PART_OF_VALUE = re.compile(r"^\W*(?:mod|base|or|not|if|unless|maybe|perhaps|am|pm)\b", re.IGNORECASE)


def without_remark(text: str) -> tuple[str, str]:
    """(text, remark) of a text that ends in a remark in parentheses: `204 minutes (3 hours and 24 minutes)`.

    Only what has words or an equality is a remark; `(1, 2)`, `f(x)` and `(mod 7)` are none.
    """
    core = text.rstrip(" .*")
    if not core.endswith(")") or core.endswith("\\)"):
        return text, ""
    depth = 0
    for i in range(len(core) - 1, 0, -1):
        depth += (core[i] == ")") - (core[i] == "(")
        if depth == 0:
            inner = core[i + 1 : -1]
            before = core[:i]
            if inner.strip().isdigit() and number_in_words(before.strip()) is not None:
                return before.rstrip(), inner
            says = re.search(r"(?<![\\A-Za-z])[A-Za-z]{3,}|=|\\equiv|\\approx", inner)
            if not says or not before[-1].isspace() or _PART_OF_VALUE.match(inner) or not re.search(r"\d", before):
                return text, ""
            return before.rstrip(), inner
    return text, ""


def conversion(text: str, remark: str) -> str | None:
    """The remark of `3 hours 24 minutes (204 minutes)` or `twenty-five (25)`, which says the same as one number."""
    said = remark.strip(" $=")
    is_same = find_quantity(text) or number_in_words(text.strip(" .")) is not None
    return said if said and _VALUE.fullmatch(said) and is_same else None


def concluded(text: str, is_numeric: bool = False) -> str | None:
    """A last line that is nothing but a value, or a concluding sentence with exactly one value."""
    text = unify_unicode(text)
    text = re.sub(r"\$\s*(\^\s*\{?\s*-?\d\s*\}?)\s*\$", lambda m: m[1].replace(" ", ""), text)
    text = re.sub(rf"(?<={_CJK})(?=-?\d)|(?<=\d)(?={_CJK})", " ", text)
    lines = [line.strip() for line in text.splitlines() if line.strip(" *$_-#>`")]
    if not lines:
        return None
    if lines[-1].startswith("|"):
        return _table_value(lines[-1])
    marked, remark = without_remark(lines[-1])
    if converted := conversion(marked, remark):
        return converted
    line = re.sub(r"^[>#\-*\s]+(?=\S)", "", marked).strip(" *`")
    bare = line.rstrip(".").strip(" *")
    inner = next(MATHS.finditer(bare), None)
    if inner and inner[0] == bare:
        return next(group for group in inner.groups() if group is not None)
    if len(lines) > 1 and re.fullmatch(r"\\\]|\$\$", lines[-1]):
        inner = re.search(r"(?:\\\[|\$\$)([^$]*?)(?:\\\]|\$\$)\s*$", text, re.DOTALL)
        return inner[1] if inner else None
    if (
        len(bare) <= 60
        and "**" not in bare
        and re.fullmatch(r"[^\w]*[-+]?[\w\\{}()\[\]^+*/.,=<>|$ %°π√-]*", bare)
        and re.search(r"\d|\\", bare)
        and not re.search(r"[^\W\d_]{4,}", re.sub(r"\\[A-Za-z]+(?:\{[^{}]*\})?", "", bare))
        and not re.match(rf"^\D*{_CJK}\D*\d", bare)
    ):
        return bare
    if len(lines) == 1 and len(bare.split()) <= 2 and bare.replace(" ", "").isalpha():
        return bare
    if _UNABLE.search(line) or line.endswith("?"):
        return None
    if is_numeric and (counted := _COUNTED.match(line)) and not ASIDE.match(line) and not _HEDGE.search(line):
        return counted[1]
    if value := _bold_value(lines[-1]):
        return value
    sentences = [part.strip() for part in SENTENCE_END.split(line) if part and part.strip()]
    return _sentence_value(sentences[-1], lines) if sentences and len(sentences[-1]) <= 300 else None


def _table_value(row: str) -> str | None:
    """The last cell of a table's last row, where that row is set off as the result."""
    cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
    value = cells[-1].strip(" *_$`")
    is_result = cells[-1].startswith("**") or cells[0].startswith("**") or bool(TOTAL.match(cells[0]))
    if len(cells) < 2 or not is_result or _HEDGE.search(row) or not re.search(r"\d|\\", value) or len(value) > 60:
        return None
    return value


def _bold_value(line: str) -> str | None:
    """The one emphasised value of the last line, or its last one if the words before it sum up the others."""
    found = [match for match in _BOLD.finditer(line) if _is_value(match[1])]
    if not found or len(found) > 4:
        return None
    match = found[-1]
    start = max([end.end() for end in SENTENCE_END.finditer(line, 0, match.start())], default=0)
    end = SENTENCE_END.search(line, match.end())
    before, rest = line[start : match.start()], line[match.end() : end.start() if end else None]
    later = line[end.end() :] if end else ""
    if end and end[0] == "?":
        return None
    if len(found) > 1 and len({other[1].strip(" .$") for other in found}) > 1:
        between = line[found[-2].end() : match.start()]
        if not re.search(r"\b(?:so|thus|hence|therefore|total|giving|sum|which)\b|=", between, re.IGNORECASE):
            return None
    # what stands behind the value and gives reasons may hold any numbers
    rest = CONTRAST.sub("", rest)
    rest = REASON.sub("", " " + rest) if re.match(r"^,?\s", rest) else rest
    said = _RESTATED.sub("", before + " " + rest)
    if _HEDGE.search(said) or _DOUBT.search(said) or _ASIDE_BOLD.match(before) or REVISION.search(later):
        return None
    is_led = bool(STATED.search(before) or _LEADS_TO_BOLD.search(before)) or not before.strip(" *>-")
    if not is_led and (rest.strip(" .*!:)") or _NUMBERED.search(before)):
        return None
    if re.match(r"^\s*(?:[-+*/=<>^]|and\b|,\s*(?:and\s+)?[\d$\\-])", rest) or re.search(r"\d\s*(?:and|,)\s*$", before):
        return None
    return match[1].strip(" $:").rstrip(".$: ") + _unit_behind(rest)


def _is_value(text: str) -> bool:
    bare = text.strip(" :,").rstrip(".")
    return bool(_VALUE.fullmatch(bare.strip("$")) or MATHS.fullmatch(bare))


def _unit_behind(rest: str) -> str:
    """The unit or half of the day that follows a value, where it says more than a noun would."""
    if half := re.match(r"^\s*(?:[ap]\.?m\b|percent|o'clock(?:\s+(?:in the|at)\s+[a-z]+)?)", rest):
        return half[0]
    match = re.match(r"^\s*((?:square |cubic )?[A-Za-z]{1,12}(?:/[A-Za-z]{1,6})?(?:\^\{?-?\d\}?)?)(?![\w{])", rest)
    if match and (len(match[1]) > 2 or "^" in match[1]) and (unit := read_unit(match[1])) and unit.dimensions:
        return " " + match[1]
    return ""


def _sentence_value(last: str, lines: list[str]) -> str | None:
    formulas = [next(g for g in m.groups() if g is not None) for m in MATHS.finditer(last)]
    is_alone = len(lines) == 1 and not _ASIDE_BOLD.match(last) and not _WRONG.search(last)
    is_conclusion = bool(CONCLUSION.match(last)) or is_alone
    times = _TIME_OF_DAY.findall(last)
    if len(times) == 1 and not ASIDE.match(last):
        return times[0].strip()
    if _HEDGE.search(last) or _CJK_HEDGE.search(last) or _OPEN.search(last):
        return None
    if formulas and is_conclusion:
        gaps = MATHS.split(last)[5:-1:5] if len(formulas) > 1 else []
        if all(CONNECTOR.fullmatch(gap or "") for gap in gaps):
            return " , ".join(formulas)
    if (value := _labelled_value(last, lines)) is not None:
        return value
    is_plain = not ASIDE.match(last) and not _DOUBT.search(last)
    if not is_conclusion and is_plain and (clauses := list(_LAST_CLAUSE.finditer(last))):
        # `3 red and 4 blue, for a total of 7`
        last, is_conclusion = last[clauses[-1].start() :].lstrip(",; "), True
        formulas = [next(g for g in m.groups() if g is not None) for m in MATHS.finditer(last)]
        if len(formulas) == 1:
            return formulas[0]
    if len(formulas) == 1 and is_plain:
        before, behind = last[: (span := MATHS.search(last)).start()], last[span.end() :]  # type: ignore[union-attr]
        if STATED.search(before) and not re.search(r"\d", before + behind) and len(behind.split()) <= 4:
            return formulas[0] + _unit_behind(behind)
    if not formulas and is_conclusion and (quantity := find_quantity(last)):
        return quantity
    flat, last = last, _UNIT_POWER.sub(r"\1", last)
    numbers = re.findall(r"(?<![\w.])-?\\?\$?\d+(?:,\d{3})*(?:\.\d+)?(?:\s\d+/\d+|/\d+)?%?(?![\w])", last)
    if not formulas and not numbers and is_conclusion and (word := _number_word(last)):
        return word
    chances = re.findall(r"\b\d+ (?:in|out of) \d+\b", last)
    if len(chances) == 1 and len(numbers) == 2 and STATED.search(last.partition(chances[0])[0]):
        return chances[0]
    before = last.partition(numbers[0])[0] if numbers else ""
    is_stated = not ASIDE.match(last) and bool(STATED.search(before) or _CJK_STATED.search(before))
    if not formulas and len(set(numbers)) == 1 and (is_conclusion or (is_stated and len(numbers) == 1)):
        return numbers[0] + _unit_behind(flat.partition(numbers[0])[2])
    if not formulas and len(numbers) == 1 and is_plain and _VERB_LAST.search(before):
        # `The jug holds 2.5 litres.`: any verb will do where a unit says that this is a measurement
        unit = _unit_behind(flat.partition(numbers[0])[2])
        return numbers[0] + unit if unit else None
    return None


def _labelled_value(last: str, lines: list[str]) -> str | None:
    """`Total: $4 \\cdot 24 = 96$`; an entry of a list is no conclusion, unless it is the total."""
    label = _LABELLED.match(last)
    if label is None or ASIDE.match(last) or _ASIDE_BOLD.match(last):
        return None
    is_listed = bool(_LISTED.match(lines[-1])) or (len(lines) > 1 and ":" in lines[-2][:60])
    if is_listed and not TOTAL.match(label[1]):
        return None
    value = label[2].strip(" .*")
    formula = MATHS.fullmatch(value)
    if formula:
        return next(group for group in formula.groups() if group is not None)
    return value if _VALUE.fullmatch(value) else None


def _number_word(sentence: str) -> str | None:
    """The one number that a sentence spells out; `one` and `zero` are too often pronouns and adjectives."""
    runs: list[list[str]] = [[]]
    for word in re.findall(r"[A-Za-z-]+", sentence):
        if number_in_words(word) is not None or (runs[-1] and word.lower() in _CONTINUING):
            runs[-1].append(word)
        elif runs[-1]:
            runs.append([])
    found = [re.sub(r"(?: and| a)+$", "", " ".join(run)) for run in runs if run]
    return found[0] if len(found) == 1 and found[0].lower() not in ("one", "zero") else None
