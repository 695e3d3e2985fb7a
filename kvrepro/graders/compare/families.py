"""Answers with an integer parameter, such as `x = \\frac{\\pi}{3} + 2k\\pi, k \\in \\mathbb{Z}`.

Two families are the same if one is the other with the parameter renamed, shifted or counted backwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kvrepro.graders.compare.sequences import Compare
from kvrepro.graders.compare.shapes import squeeze

_SET = r"\\?(?:mathbb\s*\{?\s*|text\s*\{?\s*)?([ZN])\s*\}?\s*(?:[\^_]?\s*\{?\s*[+*]\s*\}?)?"
_DECLARATION = re.compile(
    r"[\s,;]*(?:\\text\{[\s,(]*(?:where|for|with|for (?:any|all|some|every|each))?\s*\})?[\s,;]*\(?\s*"
    rf"(?:\\forall\s*)?([a-z])\s*\\in\s*{_SET}\s*\)?$"
)
_IN_WORDS = re.compile(
    r"[\s,;]*\(?\s*(?:(?:where|for|with)\s+)?(?:(?:any|all|some|every|each|an)\s+)*"
    r"(?:integers?\s+([a-z])|([a-z])\s+(?:is\s+)?(?:(?:an|any)\s+)?integers?)\s*\)?$"
)
_BUILDER = re.compile(r"^\\\{\s*[A-Za-z]\s*(?:\||:|\\mid(?![A-Za-z]))\s*(.+)\\\}$", re.DOTALL)
# what the parameter may be replaced by without changing the family
_SHIFTS = ("{}", "({}+1)", "({}-1)", "({}+2)", "({}-2)", "(-{})", "(1-{})", "(-1-{})")


@dataclass(frozen=True)
class Family:
    """`body` is what depends on `parameter`; `domain` is Z or N."""

    body: str
    parameter: str
    domain: str


def read_family(text: str) -> Family | None:
    """Family with a declared parameter; None for anything else."""
    builder = _BUILDER.match(text)
    inner = builder[1].strip() if builder else text
    if match := _DECLARATION.search(inner):
        parameter, domain = match[1], match[2]
    else:
        flat = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", inner)
        match = _IN_WORDS.search(flat)
        if match is None:
            return None
        inner, parameter, domain = flat, match[1] or match[2], "Z"
    body = inner[: match.start()].strip(" ,;")
    return Family(body, parameter, domain) if _uses(body, parameter) else None


def _symbol(name: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z\\]){name}(?![A-Za-z])")


def _uses(text: str, name: str) -> bool:
    return bool(_symbol(name).search(text))


def same_family(gold: str, answer: str, compare: Compare) -> bool | None:
    """Compare where a side declares an integer parameter; an undeclared one of the same name counts as declared."""
    first, second = read_family(gold), read_family(answer)
    if first is None and second is None:
        return None
    if first is None or second is None:
        declared = first or second
        assert declared is not None
        other = gold if first is None else answer
        if not _uses(other, declared.parameter):
            return None
        undeclared = Family(other, declared.parameter, declared.domain)
        first, second = first or undeclared, second or undeclared
    if first.domain != second.domain:
        return False
    if first.parameter != second.parameter and _uses(second.body, first.parameter):
        return None
    if squeeze(first.body) == squeeze(second.body):
        return True
    shifts = _SHIFTS if first.domain == "Z" else _SHIFTS[:1]
    verdicts = []
    for shift in shifts:
        replaced = _symbol(second.parameter).sub(shift.format(first.parameter), second.body)
        verdicts.append(compare(first.body, replaced))
        if verdicts[-1]:
            return True
    return None if None in verdicts else False
