"""The strict grader: what the reply says after its thought, compared by value; `docs/grading.md` lists its rules.

Deviates from DynTS: no answer without the end of the thought, no last number of the text, no percent slack, no relative
tolerance, no letters from articles.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kvrepro.graders.cleaning import clean
from kvrepro.graders.compare.collections import elements
from kvrepro.graders.compare.symbolic import same_by_math_verify
from kvrepro.graders.compare.values import same_answer
from kvrepro.graders.extract import choice
from kvrepro.graders.extract.answer import Extraction, answer_part, extract
from kvrepro.graders.extract.boxes import withdrawn_until
from kvrepro.graders.extract.statements import AMBIGUOUS, read_choice
from kvrepro.graders.score import Score
from kvrepro.graders.words import is_wording

_GOLD_CHOICE = re.compile(
    r"(?s)^[\s$]*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{)*\s*\(?\s*([A-K])\s*\)?\s*\}*[\s$]*(?:$"
    r"|[).:,]+\s*(.+?)\s*\}*$)",
)
_BOLD = re.compile(r"\*\*([^*\n]{3,80})\*\*")
_MEASURED_GOLD = re.compile(r"^[\s$]*(-?\d+(?:\.\d+)?)\s*([smghLl])[\s$]*$")


def read(
    response: str, gold: str, kind: str, finish_reason: str, options: Mapping[str, str], answer_start: int | None
) -> Score | Extraction:
    """Score where reading the text is enough, else the answer to compare; the arguments are those of `grade`."""
    status, text = answer_part(response, finish_reason, answer_start)
    if text is None:
        return Score(False, status, None, "thought")
    # an empty or cut-off box takes back what was said before it, and is an answer only if one follows
    cut = withdrawn_until(text, finish_reason)
    text = text[cut:]
    letter = _GOLD_CHOICE.match(gold)
    if kind == "choice" or (kind == "latex" and letter is not None and letter[2] is None):
        listed = dict(options) if options else choice.listed_options(response)
        return _score_choice(text, gold, letter, listed)
    found = extract(text, is_numeric=kind in ("integer", "number"))
    if found.rule in ("none", "final_line", "last_value") and kind == "latex" and is_wording(clean(gold)):
        # `She is facing east.`: the last line is the answer if the gold is made of words, or what it emphasises
        line = choice.final_line(text)
        bold = [words for words in _BOLD.findall(line) if re.search(r"[^\W\d_]{3}", words)]
        line = bold[-1] if bold else line
        found = Extraction("ok", line, "final_line") if 0 < len(line) <= 200 else found
    if found.status != "ok" or found.answer is None:
        return Score(False, found.status, found.answer, "empty_box" if cut else found.rule)
    return found


def _score_choice(text: str, gold: str, letter: re.Match[str] | None, options: Mapping[str, str]) -> Score:
    """Letters are compared here; words count where they are the gold's own."""
    gold_letter = letter[1] if letter else choice.letter_of_option(gold, options)
    found, rule, answer = choice.decide(text, options, letter[2] if letter else gold)
    if found == choice.GOLD_TEXT:
        return Score(True, "ok", answer, f"{rule}:wording")
    status = "ambiguous" if found == AMBIGUOUS else "no_answer" if answer is None else "ok"
    said = answer if found in (None, AMBIGUOUS) else found
    return Score(found == gold_letter and status == "ok" and found is not None, status, said, f"{rule}:letter")


def read_vote(vote: str, gold: str, kind: str) -> Score | Extraction:
    """An answer that was extracted before, held against another one in the gold's place."""
    if kind != "choice":
        return Extraction("ok", vote, "vote")
    letter = read_choice(gold)
    return Score(letter is not None and letter == read_choice(vote), "ok", vote, "vote:letter")


def compare(found: Extraction, gold: str, kind: str) -> Score:
    """Compare by the value rules, and ask math-verify for what they cannot read."""
    answer, is_integer = found.answer or "", kind == "integer"
    if kind == "number" and (letter := _MEASURED_GOLD.match(gold)):
        # the gold of a number holds no variable
        gold = f"{letter[1]}\\text{{ {letter[2]}}}"
    joined = " , ".join(found.parts)
    ways = [(answer, answer, found.rule)]
    if found.parts and len(elements(clean(gold))) == len(found.parts):
        ways.append((joined, joined, "boxed_parts"))
    if found.left and "=" in gold:
        ways.append((f"{found.left} = {answer}", answer, "boxed_right_side"))
    verdicts = [same_answer(gold, whole, is_integer) for whole, _, _ in ways]
    for verdict, (_, said, rule) in zip(verdicts, ways, strict=True):
        if verdict.equal:
            return Score(True, "ok", said, f"{rule}:{verdict.rule}")
    if verdicts[0].equal is False:
        return Score(False, "ok", answer, f"{found.rule}:{verdicts[0].rule}")
    equal = same_by_math_verify(gold, answer)
    return Score(bool(equal), "ok", answer, f"{found.rule}:{'unparsed' if equal is None else 'math_verify'}")
