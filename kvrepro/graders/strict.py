"""The strict grader: what the reply says after its thought, compared by value.

Deviates from DynTS: no answer without the end of the thought, no last number of the text, no percent slack, no relative
tolerance, no letters from articles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kvrepro.graders.cleaning import clean
from kvrepro.graders.extract import choice, option_texts
from kvrepro.graders.extract.answer import Extraction, answer_part, extract
from kvrepro.graders.extract.boxes import withdrawn_until
from kvrepro.graders.score import Score
from kvrepro.graders.words import is_wording

_GOLD_CHOICE = re.compile(
    r"^[\s$]*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)*\s*\(?\s*([A-K])\s*\)?\s*\}*[\s$]*(?:$|[).:,]+\s*(.+?)\s*\}*$)",
    re.DOTALL,
)
_BOLD = re.compile(r"\*\*([^*\n]{3,80})\*\*")
_PLAIN_ANSWER = re.compile(r"^[\s$]*([-+]?\d{1,30})(?:\.0*)?[\s.$]*$")
_MEASURED_GOLD = re.compile(r"^[\s$]*(-?\d+(?:\.\d+)?)\s*([smghLl])[\s$]*$")
MAX_GOLD = 2000


@dataclass(frozen=True)
class Pending:
    """An answer that needs the value rules to be compared."""

    extraction: Extraction


def open_score(
    response: str, gold: str, kind: str, finish_reason: str, options: Mapping[str, str], answer_start: int | None
) -> Score | Pending:
    """Score where reading the text is enough, else what is left to compare; the arguments are those of `grade`."""
    status, text = answer_part(response, finish_reason, answer_start)
    if text is None:
        return Score(False, status, None, "thought")
    # an empty or cut-off box takes back what was said before it, and is an answer only if one follows
    cut = withdrawn_until(text, finish_reason)
    text = text[cut:]
    letter = _GOLD_CHOICE.match(gold)
    if kind == "choice" or (kind == "latex" and letter is not None and letter[2] is None):
        return _score_choice(response, text, gold, letter, options)
    extraction = extract(text, is_numeric=kind in ("integer", "number"))
    if extraction.rule in ("none", "final_line", "last_value") and kind == "latex" and is_wording(clean(gold)):
        # `She is facing east.`: the last line is the answer if the gold is made of words, or what it emphasises
        line = choice.final_line(text)
        bold = [words for words in _BOLD.findall(line) if re.search(r"[^\W\d_]{3}", words)]
        line = bold[-1] if bold else line
        extraction = Extraction("ok", line, "final_line") if 0 < len(line) <= 200 else extraction
    if extraction.status != "ok" or extraction.answer is None:
        return Score(False, extraction.status, extraction.answer, "empty_box" if cut else extraction.rule)
    first, second = _PLAIN_ANSWER.match(gold), _PLAIN_ANSWER.match(extraction.answer)
    if first and second and first[0].isascii() and second[0].isascii():
        return Score(int(first[1]) == int(second[1]), "ok", extraction.answer, f"{extraction.rule}:literal")
    return Pending(extraction)


def _score_choice(
    response: str, text: str, gold: str, letter: re.Match[str] | None, options: Mapping[str, str]
) -> Score:
    listed = dict(options) if options else option_texts.listed_options(response)
    gold_letter = letter[1] if letter else option_texts.letter_of_option(gold, listed) if listed else None
    gold_text = letter[2] if letter else gold
    found, rule, answer = choice.decide(text, listed, gold_text)
    if found == choice.AMBIGUOUS:
        return Score(False, "ambiguous", answer, f"{rule}:letter")
    if found is None:
        return Score(False, "no_answer" if answer is None else "ok", answer, f"{rule}:letter")
    if found == "gold_text":
        return Score(True, "ok", answer, f"{rule}:wording")
    return Score(found == gold_letter, "ok", found, f"{rule}:letter")


def close_score(pending: Pending, gold: str, kind: str) -> Score | None:
    """Compare by the value rules; None where only math-verify can tell."""
    from kvrepro.graders.compare.values import same_answer

    extraction = pending.extraction
    assert extraction.answer is not None
    if kind == "number" and (letter := _MEASURED_GOLD.match(gold)):
        # the gold of a number holds no variable
        gold = f"{letter[1]}\\text{{ {letter[2]}}}"
    verdict = same_answer(gold, extraction.answer, kind == "integer")
    answer = extraction.answer
    if verdict.equal is not True and extraction.parts:
        from kvrepro.graders.compare.shapes import elements

        if len(elements(clean(gold))) == len(extraction.parts):
            joined = " , ".join(extraction.parts)
            parts = same_answer(gold, joined, kind == "integer")
            if parts.equal:
                return Score(True, "ok", joined, f"boxed_parts:{parts.rule}")
    if verdict.equal is not True and extraction.left and "=" in gold:
        whole = same_answer(gold, f"{extraction.left} = {answer}", kind == "integer")
        if whole.equal:
            return Score(True, "ok", answer, f"boxed_right_side:{whole.rule}")
    if verdict.equal is None:
        return None
    return Score(verdict.equal, "ok", answer, f"{extraction.rule}:{verdict.rule}")
