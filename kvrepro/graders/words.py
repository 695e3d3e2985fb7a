"""Answers in words: names, properties, sentences, quadrants, clock times, numbers written out."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_FILLERS = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "it",
        "its",
        "was",
        "be",
        "of",
        "that",
        "this",
        "so",
        "thus",
        "therefore",
        "hence",
        "answer",
        "final",
        "correct",
        "condition",
        "but",
        "and",
        "we",
        "get",
        "have",
        "to",
        "in",
        "which",
        "has",
        "will",
    ]
)
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
_TURNING = frozenset([
    "not", "no", "neither", "nor", "never", "isn't", "cannot", "can't", "or", "either", "none", "without", "except",
])  # fmt: skip
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "first": 1, "second": 2, "third": 3, "fourth": 4, "1st": 1, "2nd": 2,
          "3rd": 3, "4th": 4, "1": 1, "2": 2, "3": 3, "4": 4, "one": 1, "two": 2, "three": 3, "four": 4}  # fmt: skip
_QUADRANT = re.compile(
    r"\b(first|second|third|fourth|1st|2nd|3rd|4th) quadrant\b|\bquadrant (iii|ii|iv|i|[1-4]|one|two|three|four)\b"
)
_SYNONYMS = {
    "insufficient": ["not", "sufficient"], "unnecessary": ["not", "necessary"], "eastward": ["east"],
    "eastwards": ["east"], "westward": ["west"], "northward": ["north"], "southward": ["south"], "e.g": [],
    "dne": ["does", "not", "exist"],
}  # fmt: skip
_ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_TIME = re.compile(
    r"^(\d{1,2})(?:\s*[:.]\s*(\d{2}))?(?:\s*[:.]\s*(\d{2}))?\s*(?:o'?clock)?\s*(a\.?\s?m\.?|p\.?\s?m\.?)?"
    r"(?:\s*(?:in the|at) (morning|afternoon|evening|night))?$",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """Without text wrappers, braces and repeated spaces."""
    text = _TEXT.sub(r" \1 ", text).replace("{", "").replace("}", "").replace("\\ ", " ")
    return re.sub(r"\s+", " ", text).strip(" .,;:!\"'`")


def is_wording(text: str) -> bool:
    """Is a (cleaned) gold made of words?"""
    words = " ".join(_TEXT.findall(text))
    rest = _TEXT.sub(" ", text)
    if re.search(r"[A-Za-z]{2}", words):
        return not re.search(r"[\d\\=<>^]", rest)
    return "\\" not in text and not re.search(r"[\d+*/=<>^(){}\[\],]", text) and bool(re.search(r"[^\W\d_]{3}", text))


def words_of(text: str) -> list[str]:
    """Lower-case words without fillers; negations stay joined to what they negate (`not sufficient`)."""
    found: list[str] = []
    text = re.sub(r"\b(north|south)[- ]?(east|west)", r"\1\2", plain(text).casefold())
    text = re.sub(r"[-_/]", " ", text)
    for word in re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text):
        found.extend(_SYNONYMS.get(word, [word]))
    result: list[str] = []
    negated = False
    for word in found:
        if word in _FILLERS and len(found) > 1:
            continue
        if word == "not":
            negated = True
            continue
        result.append("not " + word if negated else word)
        negated = False
    return result + (["not"] if negated else [])


def quadrants(text: str) -> frozenset[int] | None:
    """Numbers of the quadrants named; None if the text is not about quadrants."""
    words = re.findall(r"[a-z0-9]+", plain(text).casefold())
    named = {word for word in words if word not in _FILLERS} - {"quadrant", "quadrants", "only"}
    if not named <= set(_ROMAN) and not set(words) & _TURNING:
        # a sentence: only the words next to `quadrant` name one
        found = _QUADRANT.findall(" ".join(words))
        return frozenset(_ROMAN[before or behind] for before, behind in found) or None
    if not named or not named <= set(_ROMAN):
        return None
    if "quadrant" not in words and "quadrants" not in words and not named <= {"i", "ii", "iii", "iv"}:
        return None
    return frozenset(_ROMAN[word] for word in named)


def same_wording(gold: str, answer: str) -> bool:
    """Same words in any order, or the gold's words inside a short sentence that neither negates nor hedges."""
    gold_places, answer_places = quadrants(gold), quadrants(answer)
    if gold_places is not None:
        if answer_places is not None:
            return gold_places == answer_places
        if re.fullmatch(r"\s*(?:\\text\{)?\s*(?:[Qq]uadrant)?\s*[IV]+\s*\}?", gold):
            return False
    first, second = words_of(gold), words_of(answer)
    if not first or not second:
        return False
    if Counter(first) == Counter(second):
        return True
    if "".join(first) == "".join(second):
        return True
    if len(first) == 1 and first[0] in _OPPOSITES:
        # `Yes, it converges`
        return second[0] == first[0] and _OPPOSITES[first[0]] not in second
    if len(second) > 14 or any(word in _TURNING or word.startswith("not ") for word in second):
        return False
    if first == ["no"] or any(word.startswith("not ") or word in _TURNING for word in first):
        return False
    n = len(first)
    inside = any(second[i : i + n] == first for i in range(len(second) - n + 1))
    return inside and len("".join(first)) >= 3 and not _contrast(first, plain(answer).casefold())


def _contrast(first: list[str], answer: str) -> bool:
    """Does the sentence name an alternative, as in `east and west` or `even, odd`?"""
    joined = " ".join(first)
    return bool(
        re.search(
            rf"{re.escape(joined)}\s*(?:,|/|&|\band\b|\bor\b)|(?:,|/|&|\band\b|\bor\b)\s*{re.escape(joined)}", answer
        )
    )


def clock(text: str) -> tuple[int, bool] | None:
    """(minutes after midnight, whether am or pm is known) of a time of day; None if the text is not one."""
    spelled = plain(text).replace("\\", "").strip()
    spelled = {"noon": "12:00 pm", "midnight": "12:00 am"}.get(spelled.casefold(), spelled)
    match = _TIME.match(spelled)
    if match is None or (match[2] is None and match[4] is None and match[5] is None):
        return None
    hour, minute = int(match[1]), int(match[2] or 0)
    part = (match[5] or "").lower()
    half = (match[4] or {"morning": "a", "afternoon": "p", "evening": "p"}.get(part, ""))[:1].lower()
    if part == "night":
        half = "p" if 6 <= hour < 12 else "a"
    if minute > 59 or hour > 24 or (half and not 1 <= hour <= 12):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return (hour % 24) * 60 + minute, bool(half) or hour > 12 or (hour == 0) or match[1].startswith("0")


def same_clock(gold: str, answer: str) -> bool | None:
    """Same time of day; None if the gold is not one. A missing am/pm is forgiven where the digits agree."""
    first = clock(gold)
    if first is None or (":" not in gold and not re.search("[ap]\\.? ?m|noon|midnight", gold.lower())):
        return None
    second = clock(re.sub(r"^.*?(?:\bis\b|\bat\b(?!\s+night)|=)\s*", "", plain(answer)))
    if second is None:
        return False
    if first[1] and second[1]:
        return first[0] == second[0]
    return first[0] % 720 == second[0] % 720


def number_in_words(text: str) -> int | None:
    """`seventy-three` as 73, up to 999,999; None for anything else."""
    words = [word for word in re.findall(r"[a-z]+", plain(text).casefold().replace("-", " ")) if word != "and"]
    if not words or re.search(r"\d", text):
        return None
    total = current = 0
    for word in words:
        if word in _ONES:
            current += _ONES.index(word)
        elif word in _TENS:
            current += 10 * (_TENS.index(word) + 2)
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word == "thousand":
            total, current = total + max(current, 1) * 1000, 0
        elif word in ("minus", "negative") and not total and not current:
            rest = number_in_words(" ".join(words[1:]))
            return -rest if rest is not None else None
        else:
            return None
    return total + current


_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
          "eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100}  # fmt: skip


def fraction_in_words(text: str) -> Fraction | None:
    """`two thirds`, `one half`, `three and a half`; None for anything else."""
    words = re.findall(r"[a-z]+|\d+", plain(text).casefold().replace("-", " "))
    if len(words) < 2 or len(words) > 8:
        return None
    parts = _PARTS.get(words[-1]) or _PARTS.get(words[-1].removesuffix("s"))
    if parts is None:
        return None
    top = 1 if words[-2] == "a" else number_in_words(words[-2])
    before = " ".join(words[:-3]) if len(words) > 3 and words[-3] == "and" else ""
    whole = int(before) if before.isdigit() else number_in_words(before)
    if top is None or (whole is None and len(words) > 2):
        return None
    return (whole or 0) + Fraction(top, parts)
