"""DynTS' grader, flaws included, for comparison with its tables only.

Source: the rules of Robin930/DynTS a55dc37 (`qw_evaluation/`, `utils/utils.py`); `docs/grading.md` lists
them.
Deviates: the unit list is shorter, symbolic equality is math-verify's instead of plain sympy, and a failure keeps its
own status instead of being counted as wrong in silence.
"""

from __future__ import annotations

import re
from fractions import Fraction

from kvrepro.graders.cleaning import clean, split_top
from kvrepro.graders.compare.scalars import literal
from kvrepro.graders.compare.symbolic import same_by_math_verify
from kvrepro.graders.compare.values import same_answer
from kvrepro.graders.extract.answer import MAX_ANSWER, Extraction
from kvrepro.graders.extract.boxes import find_boxes
from kvrepro.graders.score import THOUGHT_END, Score
from kvrepro.graders.words import number_in_words

RELATIVE_TOLERANCE = Fraction(1, 10_000)
_UNITS = [
    "degrees?", "cm", "meters?", "metres?", "inch(?:es)?", "feet", "foot", "ft", "miles?", "mph", "km", "hours?",
    "hrs?", "minutes?", "seconds?", "days?", "weeks?", "months?", "years?", "dollars?", "cents?", "pounds?", "kg",
    "grams?", "points?", "units?", "square", "cubic", "percent", "students?", "people", "ways?", "a", "c", "d", "g",
    "h", "l", "m", "o", "s", "t",
]  # fmt: skip
_UNIT = re.compile(rf"(?<![A-Za-z\\])(?:{'|'.join(_UNITS)})(?![A-Za-z])(?:\^\{{?\d\}}?)?")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def read(response: str, gold: str, kind: str) -> Score | Extraction:
    """Extract as DynTS does: behind the last `</think>` of the text, in words or not, or in the whole text."""
    text = response[response.rfind(THOUGHT_END) + len(THOUGHT_END) :] if THOUGHT_END in response else response
    if kind == "choice":
        return _open_choice(text, gold)
    text = text[-200_000:]
    boxes = find_boxes(text)
    last = text.rfind("boxed")
    if boxes and boxes[-1].end > last:
        answer, rule = boxes[-1].content, "boxed"
    elif last >= 0:
        # the command as a word: whatever follows it is the answer
        answer, rule = text[last + len("boxed") :].split("$")[0].strip(), "boxed"
    elif (cut := max(text.rfind("he answer is"), text.rfind("final answer is"))) >= 0:
        answer, rule = text[cut:].split(" is", 1)[1].split(".\n")[0].strip().rstrip("."), "phrase"
    else:
        numbers = _NUMBER.findall(text)
        if not numbers:
            return Score(False, "no_answer", None, "none")
        answer, rule = numbers[-1].replace(",", ""), "last_number"
    if len(answer) > MAX_ANSWER:
        return Score(False, "too_long", answer[:200], rule)
    if _strip(gold) == _strip(answer) != "":
        return Score(True, "ok", answer, f"{rule}:text")
    return Extraction("ok", answer, rule)


def _open_choice(text: str, gold: str) -> Score:
    pieces = re.split(r"choice is|answer is", text)
    has_phrase = len(pieces) > 1
    letters = re.findall(r"\b([A-E])\b", pieces[-1].upper())
    if not letters:
        said = pieces[-1][:MAX_ANSWER].strip()
        is_right = _strip(said) == _strip(gold)
        return Score(True, "ok", said, "none:text") if is_right else Score(False, "no_answer", None, "none")
    letter = letters[0] if has_phrase else letters[-1]
    wanted = re.findall(r"\b([A-E])\b", gold.upper())
    return Score(letter in wanted[:1], "ok", letter, "phrase:letter" if has_phrase else "last_letter:letter")


def _strip(text: str) -> str:
    """The clean-up of strings; its known damage is kept: stand-alone letters of the unit list vanish."""
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\?%|\\\$", "", clean(text))
    text = re.sub(r"\\text\{[^{}]*\}\s*$", "", text).strip() or text
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = _UNIT.sub("", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"^[A-Za-z]\s*=", "", text.strip())
    text = re.sub(r"\band\b|\s+", "", text)
    text = re.sub(r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(\d+)\.0+$", r"\1", text)
    words = number_in_words(text)
    return str(words) if words is not None else text.strip(".")


def _value(text: str) -> Fraction | None:
    return literal(text.replace(",", "").rstrip("%").rstrip("\\"))


def same_without_symbols(gold: str, answer: str) -> bool | None:
    """DynTS' comparison up to the point where it asks sympy; None means that point."""
    gold, answer = _strip(gold), _strip(answer)
    if gold.lower() == answer.lower() != "":
        return True
    if re.fullmatch(r"[A-E]", gold):
        letters = re.findall(r"\b([A-E])\b", answer.upper())
        if letters:
            return letters[-1] == gold
    first, second = _value(gold), _value(answer)
    if first is not None and second is not None:
        return any(
            abs(second - wanted) <= RELATIVE_TOLERANCE * max(abs(second), abs(wanted))
            for wanted in (first / 100, first, first * 100)
        )
    bare = [re.sub(r"[(){}\[\]\\]", "", text) for text in (gold, answer)]
    if bare[0].lower() == bare[1].lower() != "":
        return True
    if gold[:1] in "([" and answer[:1] in "([" and gold[-1:] in ")]" and answer[-1:] in ")]":
        parts = [split_top(text[1:-1], re.compile(",")) for text in (gold, answer)]
        if len(parts[0]) == len(parts[1]) > 1:
            verdicts = [same_without_symbols(a, b) for a, b in zip(*parts, strict=True)]
            if None not in verdicts:
                return all(verdicts)
    return None


def compare(found: Extraction, gold: str) -> Score:
    """DynTS' comparison; where it asks sympy, by value rules and then math-verify."""
    answer = found.answer or ""
    equal = same_without_symbols(gold, answer)
    if equal is None:
        equal = same_answer(_strip(gold), _strip(answer)).equal
        equal = same_by_math_verify(_strip(gold), _strip(answer)) if equal is None else equal
    return Score(bool(equal), "ok", answer, f"{found.rule}:dynts")
