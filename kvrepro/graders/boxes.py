"""Boxes of a reply: `\\boxed{...}` and its relatives, matched by braces in one pass."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BOX = re.compile(r"\\?\\(?:boxed|fbox|framebox)(?:\s*\[[^\]\n]{0,20}\])*\s*(\{|[^\s{\\]|\\[A-Za-z]+)")
MAX_BOXES = 2000


@dataclass(frozen=True)
class Box:
    """`start` and `end` span the whole command; `is_closed` tells whether its brace was."""

    start: int
    end: int
    content: str
    is_closed: bool


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
        if match[1] != "{":
            number = re.compile(r"-?\d+(?:\.\d+)?|\S").match(text, match.start(1))
            assert number is not None
            found.append(Box(match.start(), number.end(), number[0], True))
            end = number.end()
            continue
        opening = match.start(1)
        if opening in pairs:
            end = pairs[opening] + 1
            found.append(Box(match.start(), end, text[opening + 1 : end - 1], True))
        else:
            stop = text.find("\n", opening)
            stop = len(text) if stop < 0 else stop
            found.append(Box(match.start(), stop, text[opening + 1 : stop], False))
            end = stop
    return found
