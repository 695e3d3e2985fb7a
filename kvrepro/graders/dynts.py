"""DynTS' grader, flaws included, for comparison with its tables only.

Source: the rules of Robin930/DynTS a55dc37 (`qw_evaluation/`, `utils/utils.py`), which `docs/grading.md` lists.
Deviates: the unit list is shorter, symbolic equality is math-verify's instead of plain sympy, and a failure keeps its
own status instead of being counted as wrong in silence.
"""

from __future__ import annotations

import re
from fractions import Fraction

from kvrepro.graders.cleaning import clean, rewritten, split_top
from kvrepro.graders.compare.scalars import literal
from kvrepro.graders.compare.symbolic import same_by_math_verify
from kvrepro.graders.compare.values import same_answer
from kvrepro.graders.extract.answer import MAX_ANSWER, Extraction
from kvrepro.graders.extract.boxes import find_boxes
from kvrepro.graders.score import THOUGHT_END, Score
from kvrepro.graders.words import number_in_words

RELATIVE_TOLERANCE = Fraction(1, 10_000)
_UNITS = (
    "degrees?|cm|meters?|metres?|inch(?:es)?|feet|foot|ft|miles?|mph|km|hours?|hrs?|minutes?|seconds?|days?|weeks?|months?"
    "|years?|dollars?|cents?|pounds?|kg|grams?|points?|units?|square|cubic|percent|students?|people|ways?|[acdghlmost]"
)
# what the clean-up of strings takes away and what it puts there, in order; its known damage is kept: stand-alone
# letters of the unit list vanish
_CLEAN_UP = (
    (r"(?<=\d),(?=\d{3})", ""),
    (rf"(?<![A-Za-z\\])(?:{_UNITS})(?![A-Za-z])(?:\^\{{?\d\}}?)?", ""),
    (r"\\text\{([^{}]*)\}", r"\1"),
    (r"^\s*[A-Za-z]\s*=", ""),
    (r"\band\b|\s+", ""),
    (r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}"),
    (r"(\d+)\.0+$", r"\1"),
)


def read(response: str, gold: str, kind: str) -> Score | Extraction:
    """Extract as DynTS does: behind the last `</think>` of the text, in words or not, or in the whole text."""
    text = response[response.rfind(THOUGHT_END) + len(THOUGHT_END) :] if THOUGHT_END in response else response
    if kind == "choice":
        return _read_choice(text, gold)
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
    elif numbers := re.findall(r"-?\d+(?:,\d{3})*(?:\.\d+)?", text):
        answer, rule = numbers[-1].replace(",", ""), "last_number"
    else:
        return Score(False, "no_answer", None, "none")
    if len(answer) > MAX_ANSWER:
        return Score(False, "too_long", answer[:200], rule)
    if _strip(gold) == _strip(answer) != "":
        return Score(True, "ok", answer, f"{rule}:text")
    return Extraction("ok", answer, rule)


def _read_choice(text: str, gold: str) -> Score:
    """The first letter behind the last announcement, or the last one of the text; articles are letters too."""
    *phrases, said = re.split(r"choice is|answer is", text)
    letters = re.findall(r"\b([A-E])\b", said.upper())
    if not letters:
        said = said[:MAX_ANSWER].strip()
        is_right = _strip(said) == _strip(gold)
        return Score(True, "ok", said, "none:text") if is_right else Score(False, "no_answer", None, "none")
    letter, rule = (letters[0], "phrase:letter") if phrases else (letters[-1], "last_letter:letter")
    return Score(letter in re.findall(r"\b([A-E])\b", gold.upper())[:1], "ok", letter, rule)


def _strip(text: str) -> str:
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\?%|\\\$", "", clean(text))
    text = re.sub(r"\\text\{[^{}]*\}\s*$", "", text).strip() or text
    text = rewritten(text, _CLEAN_UP)
    words = number_in_words(text)
    return str(words) if words is not None else text.strip(".")


def same_without_symbols(gold: str, answer: str) -> bool | None:
    """DynTS' comparison up to the point where it asks sympy; None means that point."""
    gold, answer = _strip(gold), _strip(answer)
    if gold.lower() == answer.lower() != "":
        return True
    letters = re.findall(r"\b([A-E])\b", answer.upper())
    if letters and re.fullmatch(r"[A-E]", gold):
        return letters[-1] == gold
    first, second = (literal(text.replace(",", "").rstrip("%").rstrip("\\")) for text in (gold, answer))
    if first is not None and second is not None:
        wanted = (first / 100, first, first * 100)
        return any(abs(second - value) <= RELATIVE_TOLERANCE * max(abs(second), abs(value)) for value in wanted)
    bare = [re.sub(r"[(){}\[\]\\]", "", text).lower() for text in (gold, answer)]
    if bare[0] == bare[1] != "":
        return True
    if all(text[:1] in ("(", "[") and text[-1:] in (")", "]") for text in (gold, answer)):
        parts = [split_top(text[1:-1], re.compile(",")) for text in (gold, answer)]
        if len(parts[0]) == len(parts[1]) > 1:
            verdicts = [same_without_symbols(a, b) for a, b in zip(*parts, strict=True)]
            return None if None in verdicts else all(verdicts)
    return None


def compare(found: Extraction, gold: str) -> Score:
    """DynTS' comparison; where it asks sympy, by value rules and then math-verify."""
    answer = found.answer or ""
    equal = same_without_symbols(gold, answer)
    if equal is None:
        equal = same_answer(_strip(gold), _strip(answer)).equal
    if equal is None:
        equal = same_by_math_verify(_strip(gold), _strip(answer))
    return Score(bool(equal), "ok", answer, f"{found.rule}:dynts")
