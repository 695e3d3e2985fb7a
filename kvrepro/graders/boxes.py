"""Boxes of a reply: `\\boxed{...}` and its relatives, matched by braces in one pass."""

from __future__ import annotations

import re
from dataclasses import dataclass

# without a brace TeX boxes one token. A letter is one only where its formula, sentence or line ends behind it: in
# `the \\boxed notation` the command is a word of the sentence and `n` no answer
_END = r"(?=\s*(?:$|\n|[.,;:!?](?:\s|$)|\$|\\[)\]]|\}|\*\*|`))"
_TOKEN = rf"-?\d+(?:\.\d+)?|\\[A-Za-z]+\d{{0,2}}|[^\W\d_]{_END}|\((?=[-\d\\])[^()\n]{{1,60}}\)"
_BOX = re.compile(rf"\\?\\(?:boxed|fbox|framebox)(?:\s*\[[^\]\n]{{0,20}}\])*\s*(?P<content>\{{|{_TOKEN}|\Z)")
MAX_BOXES = 2000
_EMPTY = re.compile(r"(?:[\s.${}~]|\\[\s\\,;:!.$]|\\q?quad(?![A-Za-z]))*")
_MARKUP = " $*`\"'([\\,;"
_MENTIONS = re.compile(
    r"\b(?:in|inside|within|into|using|uses?|with|without|by|via|of|the|an?|as|to|empty|called|write|see|like)$",
    re.IGNORECASE,
)
_ANNOUNCES = re.compile(
    r"(?:\b(?:is|are|be|equals?|gives?|get|so|thus|hence|therefore|answer|result)|=|\\approx)$", re.I
)


@dataclass(frozen=True)
class Box:
    """`start` and `end` span the whole command; `is_closed` tells whether its brace was."""

    start: int
    end: int
    content: str
    is_closed: bool

    @property
    def is_empty(self) -> bool:
        """Nothing but spaces and markup inside; `\\{\\}` is the empty set."""
        return _EMPTY.fullmatch(self.content) is not None


def _brace_pairs(text: str) -> dict[int, int]:
    """Opening brace -> closing brace, for the whole text in one pass."""
    pairs: dict[int, int] = {}
    stack: list[int] = []
    i = 0
    while i < len(text):
        character = text[i]
        if character == "\\" and i + 1 < len(text) and text[i + 1] in "{}\\":
            i += 2
            continue
        if character == "{":
            stack.append(i)
        elif character == "}" and stack:
            pairs[stack.pop()] = i
        i += 1
    return pairs


def find_boxes(text: str) -> list[Box]:
    """Outermost boxes in order; a box inside a box belongs to the outer one's content."""
    matches = list(_BOX.finditer(text))
    if not matches:
        return []
    pairs = _brace_pairs(text)
    found: list[Box] = []
    end = -1
    for match in matches[-MAX_BOXES:]:
        if match.start() < end:
            continue
        found.append(_box(text, match, pairs))
        end = found[-1].end
    return found


def _box(text: str, match: re.Match[str], pairs: dict[int, int]) -> Box:
    opening, content = match.start("content"), match["content"]
    if content == "{" and opening in pairs:
        return Box(match.start(), pairs[opening] + 1, text[opening + 1 : pairs[opening]], True)
    if content == "{":
        stop = text.find("\n", opening)
        stop = len(text) if stop < 0 else stop
        return Box(match.start(), stop, text[opening + 1 : stop], False)
    end = match.end()
    while content.startswith("\\") and end in pairs:
        # the arguments of a command: `\boxed\frac{1}{2}`
        end = pairs[end] + 1
    return Box(match.start(), end, text[opening:end], bool(content))


def withdrawn_until(text: str, finish_reason: str) -> int:
    """Where the last box ends that was meant for an answer and holds none; 0 if there is no such box.

    An empty box, or one that the end of the reply or the token limit cut off, takes the place of whatever was boxed
    before it. One that is only talked about (`put it in \\boxed{}`, `\\boxed{} marks the answer`) does not.
    """
    for box in reversed(find_boxes(text)):
        is_cut = not box.is_closed and (finish_reason == "length" or box.is_empty)
        if is_cut or (box.is_empty and not _is_mentioned(text, box)):
            return box.end
    return 0


def _is_mentioned(text: str, box: Box) -> bool:
    before = text[max(0, box.start - 60) : box.start].rpartition("\n")[2].rstrip(_MARKUP)
    behind = text[box.end : box.end + 40].partition("\n")[0]
    if _MENTIONS.search(before):
        return True
    return bool(re.match(r"[^\w.]*[A-Za-z]{2,}", behind)) and not _ANNOUNCES.search(before)
