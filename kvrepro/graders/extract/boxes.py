"""Boxes of a reply: `\\boxed{...}` and its relatives, matched by braces in one pass."""

from __future__ import annotations

import re
from dataclasses import dataclass

from kvrepro.graders.cleaning import brace_pairs

# without a brace TeX boxes one token. A letter is one only where its formula, sentence or line ends behind it: in
# `the \\boxed notation` the command is a word of the sentence and `n` no answer
_END = r"(?=\s*(?:$|\n|[.,;:!?](?:\s|$)|\$|\\[)\]]|\}|\*\*|`))"
_TOKEN = rf"-?\d+(?:\.\d+)?|\\[A-Za-z]+\d{{0,2}}|[^\W\d_]{_END}|\((?=[-\d\\])[^()\n]{{1,60}}\)"
_BOX = re.compile(rf"\\?\\(?:boxed|fbox|framebox)(?:\s*\[[^\]\n]{{0,20}}\])*\s*(?P<content>\{{|{_TOKEN}|\Z)")
MAX_BOXES = 2000
_EMPTY = re.compile(r"(?:[\s.${}~]|\\[\s\\,;:!.$]|\\q?quad(?![A-Za-z]))*")
_MARKUP = " $*\"'([\\,;"
_ANNOUNCES = re.compile(r"(?i)(?:\b(?:is|are|be|equals?|gives?|get|so|thus|hence|therefore|answer|result)|=|\\approx)$")
_WORDS = re.compile(r"[^\w.]*[A-Za-z]{2,}")
_CONNECTOR = re.compile(
    r"(?i)(?:[\s$,;&.*]|\\[()\[\],;: !]|\\q?quad|\\text\{\s*,?\s*(?:and|or)\s*,?\s*\}|\b(?:and|or|also)\b|[和或])*",
)
_JOINER = re.compile(r"(?i)[,;&和或]|\b(?:and|or)\b")


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


def find_boxes(text: str) -> list[Box]:
    """Outermost boxes in order; a box inside a box belongs to the outer one's content."""
    matches = list(_BOX.finditer(text))
    pairs = brace_pairs(text) if matches else {}
    found: list[Box] = []
    for match in matches[-MAX_BOXES:]:
        if not found or match.start() >= found[-1].end:
            found.append(_box(text, match, pairs))
    return found


def _box(text: str, match: re.Match[str], pairs: dict[int, int]) -> Box:
    opening, content = match.start("content"), match["content"]
    if content == "{":
        line_end = text.find("\n", opening)
        end = pairs.get(opening, line_end if line_end >= 0 else len(text))
        is_closed = opening in pairs
        return Box(match.start(), end + is_closed, text[opening + 1 : end], is_closed)
    end = match.end()
    while content.startswith("\\") and end in pairs:
        # the arguments of a command: `\boxed\frac{1}{2}`
        end = pairs[end] + 1
    return Box(match.start(), end, text[opening:end], bool(content))


def is_joined(between: str, needs_word: bool = False) -> bool:
    """Do two boxes or formulas with this between them form a list? On two lines only with a sign or a word of lists."""
    if len(between) > 60 or not _CONNECTOR.fullmatch(between):
        return False
    return bool(_JOINER.search(between)) or not (needs_word or "\n" in between)


def withdrawn_until(text: str, finish_reason: str) -> int:
    """Where the last box ends that was meant for an answer and holds none; 0 if there is no such box.

    An empty box in an answer's place, or one whose content the token limit cut off, takes the place of whatever was
    boxed before it. One that is only talked about (`put it in \\boxed{}`, `\\boxed{} marks the answer`) does not.
    """
    for box in reversed(find_boxes(text)):
        is_cut = not box.is_closed and finish_reason == "length" and not _BOX.search(box.content)
        if _is_in_place(text, box) if box.is_empty else is_cut:
            return box.end
    return 0


def _is_in_place(text: str, box: Box) -> bool:
    """Does an empty box stand where an answer would: announced, or alone on its line; and not in code?"""
    before = text[max(0, box.start - 60) : box.start].rpartition("\n")[2]
    behind = text[box.end : box.end + 40].partition("\n")[0]
    if before.endswith("`") or text.count("```", 0, box.start) % 2:
        return False
    before = before.rstrip(_MARKUP)
    return bool(_ANNOUNCES.search(before)) or (before[-1:] in ("", ":") and not _WORDS.match(behind))
