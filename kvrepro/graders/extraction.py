"""From a reply to its answer: the part after the thought, then boxes, announcements, or a concluding line."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

from kvrepro.graders.boxes import Box, find_boxes
from kvrepro.graders.cleaning import unify_unicode
from kvrepro.graders.phrases import ANSWER_PHRASE, ASIDE, CONCLUSION, REVISION, STATED
from kvrepro.graders.quantities import find_quantity
from kvrepro.graders.wording import fraction_in_words, number_in_words

THOUGHT_END = "</think>"
THOUGHT_START = "<think>"
# characters of the answer part, from its end, that are searched for boxes, and for statements in words
MAX_REPLY = 400_000
MAX_WORDING = 20_000
MAX_ANSWER = 1_500
_RUN = re.compile(r"([^\w{}\\])\1{12,}")
_SPECIAL = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?(?:answer|s|eos|pad)>")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_CONNECTOR = re.compile(
    r"(?:[\s$,;&.*]|\\[()\[\],;: !]|\\q?quad|\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|\b(?:and|or|also)\b|[和或])*",
    re.IGNORECASE,
)
_SIGN_BEFORE = re.compile(r"(?:^|[\s$=(\[:])-\s*$|=\s*\$?\s*-\s*\$\s*$")
_BEHIND = re.compile(r"^\s*\$?((?:_\{?\d{1,2}\}?)|(?:\s|~|\\,)*[ap]\.?m\b\.?)")
_LEFT_SIDE = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:_\{?\w\}?)?(?:\([A-Za-z]\))?)\s*=\s*$")
_HAS_JOINER = re.compile(r"[,;&和或]|\b(?:and|or)\b", re.IGNORECASE)
_MATHS = re.compile(r"\$\$(.+?)\$\$|(?<!\\)\$(.+?)(?<!\\)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[^\d.])\.(?=\s|$)|(?<=\d)\.(?=\s|$)|\n|(?<![\\A-Za-z])!(?=\s|$)|\?(?=\s|$)")
_CONTRAST = re.compile(r",\s*(?:and\s+)?not\s+[\d$\\-].*$", re.DOTALL)
_REASON = re.compile(
    r",?\s+(?:i\.e\.?|that is|or equivalently|equivalently|or about|or approximately|because|since|as"
    r"|which|where|so|for|due|after|when|by|hence|thus|therefore|,)\b.*$",
    re.DOTALL | re.IGNORECASE,
)
_TIME_OF_DAY = re.compile(r"(?<![\d:])\d{1,2}:\d{2}(?!\d|:)(?:\s*[ap]\.?\s?m\b\.?)?", re.IGNORECASE)
_CONTINUING = ("hundred", "thousand", "and", "a", "half", "third", "thirds", "quarter", "quarters")
_POLITE = re.compile(r"(?:입니다|이다|です|である|だ|になります)\s*$")


@dataclass(frozen=True)
class Extraction:
    """`answer` is None if there is none; `parts` holds every distinct box where a gold may have several parts.

    `left` is what stands before an equals sign directly before the box.
    """

    status: str
    answer: str | None
    rule: str
    parts: tuple[str, ...] = ()
    left: str = ""


def answer_part(response: str, finish_reason: str) -> tuple[str, str | None]:
    """(status, text after the last end of thought); the text is None for `truncated` and `no_answer`.

    A reply with no think tag at all is an answer as a whole if the model stopped by itself (a model without a thought,
    or a stored reply whose thought was cut off); it is `truncated` if it ran into the token limit, because the prompt
    of a reasoning model opens the thought. A thought that was opened and never closed is never an answer.
    """
    cut = response.rfind(THOUGHT_END)
    if cut >= 0:
        text = response[cut + len(THOUGHT_END) :]
    elif finish_reason == "length":
        return "truncated", None
    elif THOUGHT_START in response:
        return "no_answer", None
    else:
        text = response
    # long runs of one sign carry nothing and make patterns slow
    text = _RUN.sub(lambda match: match[1] * 12, text[-MAX_REPLY:])
    if tag := _ANSWER_TAG.findall(text):
        text = tag[-1] if tag[-1].strip() else text
    return "ok", _SPECIAL.sub("", text)


def extract(text: str, finish_reason: str = "stop", is_numeric: bool = False) -> Extraction:
    """Answer of an answer part: last box, else last announced answer, else a concluding line.

    Args:
        is_numeric: whether a concluding line must hold a number to be an answer.
    """
    boxes = [box for box in find_boxes(text) if box.content.strip(" .$\\{}")]
    if boxes and not boxes[-1].is_closed and finish_reason == "length":
        # the limit cut the box open: what it holds is a beginning
        return Extraction("no_answer", None, "open_box")
    if boxes:
        return _from_boxes(text, boxes)
    text = text[-MAX_WORDING:]
    announced = _announced(text)
    if announced is not None:
        return _capped(announced, "phrase")
    concluded = _concluded(text)
    if concluded is not None and is_numeric and not re.search(r"\d", unify_unicode(concluded)):
        is_spelled = number_in_words(concluded) is not None or fraction_in_words(concluded) is not None
        concluded = concluded if is_spelled else None
    if concluded is not None:
        return _capped(concluded, "final_line")
    return Extraction("no_answer", None, "none")


def _capped(answer: str, rule: str, parts: tuple[str, ...] = ()) -> Extraction:
    if len(answer) > MAX_ANSWER:
        return Extraction("too_long", answer[:200], rule)
    return Extraction("ok", answer, rule, parts)


def _from_boxes(text: str, boxes: list[Box]) -> Extraction:
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box.end : group[0].start]
        if len(between) > 60 or not _CONNECTOR.fullmatch(between):
            break
        if not _HAS_JOINER.search(between) and "\n" in between:
            break
        group.insert(0, box)
        if len(group) > 50:
            break
    contents = list(dict.fromkeys(_with_neighbours(text, box) for box in group))
    parts: tuple[str, ...] = ()
    if 1 < len(boxes) <= 8:
        gaps = [text[a.end : b.start] for a, b in pairwise(boxes)]
        if not any(REVISION.search(gap) for gap in gaps):
            parts = tuple(dict.fromkeys(_with_neighbours(text, box) for box in boxes))
    joined = contents[0] if len(contents) == 1 else " , ".join(contents)
    left = _LEFT_SIDE.search(text[max(0, group[0].start - 40) : group[0].start]) if len(group) == 1 else None
    extraction = _capped(joined, "boxed" if len(contents) == 1 else "boxed_list", parts if len(parts) > 1 else ())
    return replace(extraction, left=left[1]) if left else extraction


def _with_neighbours(text: str, box: Box) -> str:
    """Content of a box with what belongs to it outside: a sign before it, a base or am/pm behind it."""
    content = box.content.strip()
    before, behind = text[max(0, box.start - 12) : box.start], text[box.end : box.end + 30]
    if _SIGN_BEFORE.search(before) and content[:1] not in "-+":
        content = "-" + content
    if tail := _BEHIND.match(behind):
        content += tail[1]
    return content


def _announced(text: str) -> str | None:
    """What follows the last announcement that announces something."""
    spelled = unify_unicode(text) if not text.isascii() else text
    for match in reversed(list(ANSWER_PHRASE.finditer(spelled))):
        tail = spelled[match.end() : match.end() + 600].lstrip(" *\n:")
        negated = re.match(r"^(?:not|n't)\b", tail)
        if negated:
            other = re.search(r"\b(?:but|rather|it is|it's)\b\s*(.+)", tail.split("\n")[0])
            if other is None:
                continue
            tail = other[1]
        value = _first_value(tail)
        if value:
            return value
    return None


def _first_value(tail: str) -> str | None:
    """The value at the start of a sentence: its first formula, or its words up to the end or a reason."""
    if tail.startswith(("$$", "\\[")) or re.match(r"^(?:\$(?!\d+(?:[.,]\d+)*(?:\s|$|\.))|\\\()", tail):
        first = _MATHS.match(tail)
        if first:
            pieces, position = [], 0
            while match := _MATHS.match(tail, position):
                pieces.append(next(group for group in match.groups() if group is not None))
                position = match.end()
                joiner = re.match(r"\s*(?:,\s*and\b|,\s*or\b|,|and\b|or\b)\s*(?=\$|\\\()", tail[position:])
                if joiner is None:
                    break
                position += joiner.end()
            rest = _SENTENCE_END.split(tail[position:], maxsplit=1)[0]
            unit = re.match(r"^\s*(?:%|\\%|[a-z²³^0-9/ ]{1,30}$)", rest)
            return " , ".join(pieces) + (f" \\text{{{unit[0].strip()}}}" if unit and len(pieces) == 1 else "")
    sentence = _SENTENCE_END.split(tail, maxsplit=1)[0]
    sentence = _POLITE.sub("", _REASON.sub("", _CONTRAST.sub("", sentence))).strip(" *:`\"'")
    return sentence or None


def _concluded(text: str) -> str | None:
    """A last line that is nothing but a value, or a concluding sentence with exactly one value."""
    text = unify_unicode(text)
    lines = [line.strip() for line in text.splitlines() if line.strip(" *$_-#>`")]
    if not lines:
        return None
    line = re.sub(r"^[>#\-*\s]+(?=\S)", "", lines[-1]).strip(" *`")
    bare = line.rstrip(".").strip(" *")
    inner = _MATHS.fullmatch(bare)
    if inner:
        return next(group for group in inner.groups() if group is not None)
    if len(lines) > 1 and re.fullmatch(r"\\\]|\$\$", lines[-1]):
        inner = re.search(r"(?:\\\[|\$\$)([^$]*?)(?:\\\]|\$\$)\s*$", text, re.DOTALL)
        return inner[1] if inner else None
    if (
        len(bare) <= 60
        and re.fullmatch(r"[^\w]*[-+]?[\w\\{}()\[\]^+*/.,=<>|$ %°π√-]*", bare)
        and re.search(r"\d|\\", bare)
        and not re.search(r"[A-Za-z]{4,}", re.sub(r"\\[A-Za-z]+(?:\{[^{}]*\})?", "", bare))
    ):
        return bare
    if len(lines) == 1 and len(bare.split()) <= 2 and bare.replace(" ", "").isalpha():
        return bare
    sentences = [part.strip() for part in _SENTENCE_END.split(line) if part and part.strip()]
    last = sentences[-1] if sentences else ""
    if re.search(r"\b(?:cannot|can't|could not|unable to|not enough|don't know)\b", line, re.IGNORECASE):
        return None
    if not last or len(last) > 300:
        return None
    formulas = [next(g for g in m.groups() if g is not None) for m in _MATHS.finditer(last)]
    is_conclusion = bool(CONCLUSION.match(last)) or len(lines) == 1
    times = _TIME_OF_DAY.findall(last)
    if len(times) == 1 and not ASIDE.match(last):
        return times[0].strip()
    if re.search(r"\b(?:not|cannot|can't|unclear|maybe|perhaps|either|or|checked|try|guess)\b", last, re.IGNORECASE):
        return None
    if formulas and is_conclusion:
        gaps = _MATHS.split(last)[5:-1:5] if len(formulas) > 1 else []
        if all(_CONNECTOR.fullmatch(gap or "") for gap in gaps):
            return " , ".join(formulas)
    if not formulas and is_conclusion and (quantity := find_quantity(last)):
        return quantity
    numbers = re.findall(r"(?<![\w.])-?\\?\$?\d+(?:,\d{3})*(?:\.\d+)?(?:/\d+)?%?(?![\w])", last)
    if not formulas and not numbers and is_conclusion and (word := _number_word(last)):
        return word
    chances = re.findall(r"\b\d+ (?:in|out of) \d+\b", last)
    if len(chances) == 1 and len(numbers) == 2 and STATED.search(last.partition(chances[0])[0]):
        return chances[0]
    is_stated = len(numbers) == 1 and not ASIDE.match(last) and bool(STATED.search(last.partition(numbers[0])[0]))
    if not formulas and len(set(numbers)) == 1 and (is_conclusion or is_stated):
        behind = re.match(r"^\s*(?:[ap]\.?m\b|percent)", last.partition(numbers[0])[2])
        return numbers[0] + (behind[0] if behind else "")
    return None


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
