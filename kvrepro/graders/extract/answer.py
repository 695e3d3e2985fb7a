"""From a reply to its answer: the part after the thought, then boxes, announcements, or a concluding line."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from kvrepro.graders.cleaning import unify_unicode
from kvrepro.graders.extract import last_sentence
from kvrepro.graders.extract.announcements import ANSWER_PHRASE
from kvrepro.graders.extract.boxes import Box, find_boxes, is_joined
from kvrepro.graders.extract.hedging import CONTRAST, REASON, REVISION
from kvrepro.graders.score import THOUGHT_END, THOUGHT_START, UNKNOWN_START
from kvrepro.graders.words import value_in_words

# characters of the answer part, from its end, that are searched for boxes, and for statements in words
MAX_REPLY = 400_000
MAX_WORDING = 20_000
MAX_ANSWER = 1_500
_RUN = re.compile(r"([^\w{}\\])\1{12,}")
_SPECIAL = re.compile(r"<[|｜][^<>|｜\n]{1,40}[|｜]>|</?(?:answer|s|eos|pad)>")
_SIGN_BEFORE = re.compile(r"(?:^|[\s$=(\[:])-\s*$|=\s*\$?\s*-\s*\$\s*$")
_BEHIND = re.compile(r"^\s*\$?((?:_\{?\d{1,2}\}?)|(?:\s|~|\\,)*[ap]\.?m\b\.?)")
_LEFT_SIDE = re.compile(r"(?<![A-Za-z\\])([A-Za-z](?:_\{?\w\}?)?(?:\([A-Za-z]\))?)\s*=\s*$")


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


def answer_part(response: str, finish_reason: str, answer_start: int | None = UNKNOWN_START) -> tuple[str, str | None]:
    """(status, text of the answer); the text is None for `truncated` and `no_answer`.

    The answer begins where it was recorded to begin, else behind the last end of a thought. Without either, a reply
    that stopped by itself is an answer as a whole, unless it opens a thought itself (DynTS takes it whole too); one
    that ran into the token limit is `truncated`, because the prompt of a reasoning model opens the thought.
    """
    if answer_start == UNKNOWN_START and THOUGHT_END in response:
        answer_start = response.rfind(THOUGHT_END) + len(THOUGHT_END)
    if answer_start in (None, UNKNOWN_START):
        if finish_reason == "length" or THOUGHT_START in response:
            return "truncated" if finish_reason == "length" else "no_answer", None
        answer_start = 0
    # long runs of one sign carry nothing and make patterns slow
    text = _RUN.sub(lambda match: match[1] * 12, response[answer_start:][-MAX_REPLY:])
    end = text.lower().rfind("</answer>")
    start = text.lower().rfind("<answer>", 0, max(end, 0))
    tagged = text[start + len("<answer>") : end] if start >= 0 else ""
    return "ok", _SPECIAL.sub("", tagged if tagged.strip() else text)


def extract(text: str, is_numeric: bool = False) -> Extraction:
    """Answer of an answer part: last box, else last announced answer, else a concluding line.

    Args:
        is_numeric: whether a concluding line must hold a number to be an answer.
    """
    boxes = [box for box in find_boxes(text) if not box.is_empty]
    if boxes:
        return _from_boxes(text, boxes)
    text = text[-MAX_WORDING:]
    closing = last_sentence.concluded(text, is_numeric)
    if is_numeric and closing and not re.search(r"\d", unify_unicode(closing)) and value_in_words(closing) is None:
        closing = None
    for rule, found in (
        ("phrase", _announced(text)),
        ("final_line", closing),
        ("last_value", last_sentence.last_value(text)),
    ):
        if found is not None:
            return _capped(found, rule)
    return Extraction("no_answer", None, "none")


def _capped(answer: str, rule: str, parts: tuple[str, ...] = (), left: str = "") -> Extraction:
    if len(answer) > MAX_ANSWER:
        return Extraction("too_long", answer[:200], rule)
    return Extraction("ok", answer, rule, parts if len(parts) > 1 else (), left)


def _from_boxes(text: str, boxes: list[Box]) -> Extraction:
    """The last box, with those before it that form a list with it."""
    gaps = [text[a.end : b.start] for a, b in pairwise(boxes)]
    n_listed = 1 + next((i for i, gap in enumerate(reversed(gaps)) if not is_joined(gap)), len(gaps))
    listed = tuple(dict.fromkeys(_with_neighbours(text, box) for box in boxes[-min(n_listed, 50) :]))
    is_revised = len(boxes) > 8 or any(map(REVISION.search, gaps))
    parts = () if is_revised else tuple(dict.fromkeys(_with_neighbours(text, box) for box in boxes))
    left = _LEFT_SIDE.search(text[max(0, boxes[-1].start - 40) : boxes[-1].start])
    if len(listed) > 1:
        return _capped(" , ".join(listed), "boxed_list", parts)
    return _capped(listed[0], "boxed", parts, left[1] if left else "")


def _with_neighbours(text: str, box: Box) -> str:
    """Content of a box with what belongs to it outside: a sign before it, a base or am/pm behind it."""
    content = box.content.strip()
    if _SIGN_BEFORE.search(text[max(0, box.start - 12) : box.start]) and content[:1] not in "-+":
        content = "-" + content
    tail = _BEHIND.match(text[box.end : box.end + 30])
    return content + (tail[1] if tail else "")


def _announced(text: str) -> str | None:
    """What follows the last announcement that announces something."""
    text = unify_unicode(text)
    for match in reversed(list(ANSWER_PHRASE.finditer(text))):
        tail = text[match.end() : match.end() + 600]
        opened = tail.rfind("{", 0, brace := tail.find("}")) >= 0
        # the brace of a wrapper that held the announcement: `\text{Answer: } 293`, `\text{Answer: 293}`
        tail = (tail if opened or brace < 0 else tail[:brace] + " " + tail[brace + 1 :]).lstrip(" *\n:")
        if re.match(r"^(?:not|n't)\b", tail):
            other = re.search(r"\b(?:but|rather|it is|it's)\b\s*(.+)", tail.split("\n")[0])
            tail = other[1] if other else ""
        if value := _first_value(tail):
            return value
    return None


def _first_value(tail: str) -> str | None:
    """The value at the start of a sentence: its first formulas, or its words up to the end or a reason."""
    is_formula = re.match(r"^(?:\$\$|\\\[|\$(?!\d+(?:[.,]\d+)*(?:\s|$|\.))|\\\()", tail)
    formulas: list[str] = []
    position = 0
    while is_formula and (match := last_sentence.MATHS.match(tail, position)):
        formulas.append(last_sentence.formula_in(match))
        position = match.end()
        joiner = re.compile(r"\s*(?:,\s*(?:and|or)\b|,|and\b|or\b)\s*(?=\$|\\\()").match(tail, position)
        position, is_formula = (joiner.end() if joiner else position), joiner
    if formulas:
        unit = re.match(
            r"^\s*(?:%|\\%|[a-z²³^0-9/ ]{1,30}$)", last_sentence.SENTENCE_END.split(tail[position:], maxsplit=1)[0]
        )
        return " , ".join(formulas) + (f" \\text{{{unit[0].strip()}}}" if unit and len(formulas) == 1 else "")
    sentence = last_sentence.without_remark(last_sentence.SENTENCE_END.split(tail, maxsplit=1)[0])
    return REASON.sub("", CONTRAST.sub("", sentence)).strip(" *:`\"'") or None
