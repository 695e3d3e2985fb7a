"""How problems are asked: DynTS' bare message or the one that DeepSeek recommends, and the order of options."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

from ..errors import KvreproError, check_known
from .problem import Problem

PROMPT_STYLES = ("dynts", "deepseek")
DEEPSEEK_SUFFIX = "\nPlease reason step by step, and put your final answer within \\boxed{}."
# options are shuffled by problem and this seed only
OPTION_SEED = 42
LETTERS = "ABCD"
_TRUTH, _CONSENT = " (True or False)", " (Yes or No)"
_TYPE_HINTS = {"true": _TRUTH, "false": _TRUTH, "yes": _CONSENT, "no": _CONSENT}


def user_message(problem: str, gold: str, style: str = "dynts") -> str:
    """The text of the user turn, before the chat template.

    Source: `dynts` is Robin930/DynTS a55dc37 (bare problem; golds that are true/false or yes/no add a hint, which leaks
    the answer's type); `deepseek` is the README of deepseek-ai/DeepSeek-R1.
    """
    check_known("prompt style", PROMPT_STYLES, style)
    if style == "deepseek":
        return problem + DEEPSEEK_SUFFIX
    return problem + _TYPE_HINTS.get(gold.strip().lower(), "")


def prompt_hash(prompts: Iterable[str]) -> str:
    """SHA-256 over rendered prompts in order; a run's manifest records it."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(prompt.encode() + b"\x1f")
    return digest.hexdigest()


def rows_hash(problems: Iterable[Problem]) -> str:
    """SHA-256 over ids, questions and golds, in order; part of a cell's manifest."""
    return prompt_hash(f"{p.problem_id}\x1f{p.question}\x1f{p.gold}" for p in problems)


def option_order(problem_id: str, n_options: int = 4, seed: int = OPTION_SEED) -> tuple[int, ...]:
    """Permutation of the options, the same for all methods, samples and machines."""
    keys = [hashlib.sha256(f"{seed}\x1f{problem_id}\x1f{i}".encode()).digest() for i in range(n_options)]
    return tuple(sorted(range(n_options), key=keys.__getitem__))


def shuffled_question(
    question: str, correct: str, incorrect: Sequence[str], problem_id: str
) -> tuple[str, str, dict[str, str]]:
    """(question with lettered options, gold letter, options by letter).

    The gold's place is carried, never looked up by its text.
    """
    options = [correct, *incorrect]
    if len(options) != len(LETTERS) or not all(option.strip() for option in options):
        raise KvreproError(f"problem {problem_id!r} needs {len(LETTERS)} non-empty options, found {len(options)}")
    order = option_order(problem_id, len(options))
    shown = {letter: options[i].strip() for letter, i in zip(LETTERS, order, strict=True)}
    lines = [f"{letter}) {text}" for letter, text in shown.items()]
    return question.strip() + "\n\n" + "\n".join(lines), LETTERS[order.index(0)], shown


def listed_options(question: str) -> dict[str, str]:
    """Options of a ready-made question that ends in lines `A) ...` to `D) ...`; empty if it has no such lines."""
    found = re.findall(r"^[ \t]*\(?([A-D])[).:][ \t]*(\S.*?)[ \t]*$", question, re.MULTILINE)[-len(LETTERS) :]
    return dict(found) if "".join(letter for letter, _ in found) == LETTERS else {}
