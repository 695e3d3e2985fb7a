"""Answers in words: names, properties, sentences, quadrants, clock times, numbers written out."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction

_TEXT = re.compile(r"\\text\{([^{}]*)\}")


def word_set(text: str) -> frozenset[str]:
    """The words of a text, for tables that are read as text."""
    return frozenset(text.split())


_FILLERS = word_set("""
a an the is are it its was be of that this so thus therefore hence answer final correct condition but and we get have
to in which has will
""")
_OPPOSITES = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
_TURNING = word_set("not no neither nor never isn't cannot can't or either none without except")
_SYNONYMS = {"insufficient": "not sufficient", "unnecessary": "not necessary", "dne": "does not exist", "e.g": ""}
_PLACES = ("i first 1st 1 one", "ii second 2nd 2 two", "iii third 3rd 3 three", "iv fourth 4th 4 four")
_QUADRANTS = {name: number for number, names in enumerate(_PLACES, 1) for name in names.split()}
_QUADRANT = re.compile(
    r"\b(first|second|third|fourth|1st|2nd|3rd|4th) quadrant\b|\bquadrant (iii|ii|iv|i|[1-4]|one|two|three|four)\b"
)
_ONES = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = {name: i for i, name in enumerate(_ONES.split())} | {name: 10 * i for i, name in enumerate(_TENS.split(), 2)}
_ORDINALS = "third fourth fifth sixth seventh eighth ninth tenth"
_PARTS = {name: i for i, name in enumerate(_ORDINALS.split(), 3)}
_PARTS |= {"half": 2, "halve": 2, "quarter": 4, "hundredth": 100}
_TIME = re.compile(
    r"(?i)^(\d{1,2})(?:\s*[:.]\s*(\d{2}))?(?:\s*[:.]\s*(\d{2}))?\s*(?:o'?clock)?\s*(a\.?\s?m\.?|p\.?\s?m\.?)?"
    r"(?:\s*(?:in the|at) (morning|afternoon|evening|night))?$",
)


def plain(text: str) -> str:
    """Without text wrappers, braces and repeated spaces."""
    text = _TEXT.sub(r" \1 ", text).replace("{", "").replace("}", "").replace("\\ ", " ")
    return re.sub(r"\s+", " ", text).strip(" .,;:!\"'`")


def is_wording(text: str) -> bool:
    """Is a (cleaned) gold made of words?"""
    if re.search(r"[A-Za-z]{2}", " ".join(_TEXT.findall(text))):
        return not re.search(r"[\d\\=<>^]", _TEXT.sub(" ", text))
    return not re.search(r"[\d+*/=<>^(){}\[\],\\]", text) and bool(re.search(r"[^\W\d_]{3}", text))


def _words_of(text: str) -> list[str]:
    """Lower-case words without fillers; negations stay joined to what they negate (`not sufficient`)."""
    text = re.sub(r"\b(north|south)[- ]?(east|west)", r"\1\2", plain(text).casefold())
    text = re.sub(r"\b(north|south|east|west)wards?\b", r"\1", re.sub(r"[-_/]", " ", text))
    found: list[str] = []
    for word in re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text):
        found.extend(_SYNONYMS.get(word, word).split())
    kept = [word for word in found if word not in _FILLERS or len(found) == 1]
    return re.sub(r"\bnot\n", "not ", "\n".join(kept)).split("\n") if kept else []


def _quadrants(text: str) -> frozenset[int] | None:
    """Numbers of the quadrants named; None if the text is not about quadrants."""
    words = re.findall(r"[a-z0-9]+", plain(text).casefold())
    named = set(words) - _FILLERS - {"quadrant", "quadrants", "only"}
    if not named <= set(_QUADRANTS):
        # a sentence: only the words next to `quadrant` name one
        found = _QUADRANT.findall(" ".join(words)) if not set(words) & _TURNING else []
        return frozenset(_QUADRANTS[before or behind] for before, behind in found) or None
    is_about = {"quadrant", "quadrants"} & set(words) or named <= {"i", "ii", "iii", "iv"}
    return frozenset(_QUADRANTS[word] for word in named) if named and is_about else None


def same_wording(gold: str, answer: str) -> bool:
    """Same words in any order, or the gold's words inside a short sentence that neither negates nor hedges."""
    gold_places, answer_places = _quadrants(gold), _quadrants(answer)
    if gold_places is not None and answer_places is not None:
        return gold_places == answer_places
    first, second = _words_of(gold), _words_of(answer)
    if not first or not second:
        return False
    if Counter(first) == Counter(second) or "".join(first) == "".join(second):
        return True
    if len(first) == 1 and first[0] in _OPPOSITES:
        # `Yes, it converges`
        return second[0] == first[0] and _OPPOSITES[first[0]] not in second
    if len(second) > 14 or any(word in _TURNING or word.startswith("not ") for word in first + second):
        return False
    inside = f" {' '.join(first)} " in f" {' '.join(second)} "
    return inside and len("".join(first)) >= 3 and not _has_alternative(" ".join(first), plain(answer).casefold())


def _has_alternative(words: str, answer: str) -> bool:
    """Does the sentence name another one beside it, as in `east and west` or `even, odd`?"""
    words, joiner = re.escape(words), r"(?:,|/|&|\band\b|\bor\b)"
    return bool(re.search(rf"{words}\s*{joiner}|{joiner}\s*{words}", answer))


def _clock(text: str) -> tuple[int, bool] | None:
    """(minutes after midnight, whether am or pm is known) of a time of day; None if the text is not one."""
    spelled = plain(text).replace("\\", "").strip()
    match = _TIME.match({"noon": "12:00 pm", "midnight": "12:00 am"}.get(spelled.casefold(), spelled))
    if match is None or not (match[2] or match[4] or match[5]):
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
    return (hour % 24) * 60 + minute, bool(half) or hour > 12 or match[1].startswith("0")


def same_clock(gold: str, answer: str) -> bool | None:
    """Same time of day; None if the gold is not one. A missing am/pm is forgiven where the digits agree."""
    first = _clock(gold)
    if first is None or (":" not in gold and not re.search("[ap]\\.? ?m|noon|midnight", gold.lower())):
        return None
    second = _clock(re.sub(r"^.*?(?:\bis\b|\bat\b(?!\s+night)|=)\s*", "", plain(answer)))
    if second is None:
        return False
    period = 1440 if first[1] and second[1] else 720
    return first[0] % period == second[0] % period


def number_in_words(text: str) -> int | None:
    """`seventy-three` as 73, up to 999,999; None for anything else."""
    words = [word for word in re.findall(r"[a-z]+", plain(text).casefold()) if word != "and"]
    if not words or re.search(r"\d", text):
        return None
    if words[0] in ("minus", "negative"):
        rest = number_in_words(" ".join(words[1:]))
        return -rest if rest is not None else None
    total = current = 0
    for word in words:
        if word in _VALUES:
            current += _VALUES[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word == "thousand":
            total, current = total + max(current, 1) * 1000, 0
        else:
            return None
    return total + current


def value_in_words(text: str) -> Fraction | None:
    """`seventy-three`, `two thirds`, `one half`, `three and a half`; None for anything else."""
    if (number := number_in_words(text)) is not None:
        return Fraction(number)
    words = re.findall(r"[a-z]+|\d+", plain(text).casefold())
    parts = _PARTS.get(words[-1].removesuffix("s")) if 2 <= len(words) <= 8 else None
    if parts is None:
        return None
    top = 1 if words[-2] == "a" else number_in_words(words[-2])
    before = " ".join(words[:-3]) if len(words) > 3 and words[-3] == "and" else ""
    whole = int(before) if before.isdigit() else number_in_words(before)
    if top is None or (whole is None and len(words) > 2):
        return None
    return (whole or 0) + Fraction(top, parts)
