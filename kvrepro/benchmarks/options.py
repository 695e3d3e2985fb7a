"""Multiple-choice options in an order that depends on the problem and a seed only."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from ..errors import KvreproError

OPTION_SEED = 42
LETTERS = "ABCD"


def option_order(problem_id: str, n_options: int = 4, seed: int = OPTION_SEED) -> tuple[int, ...]:
    """Permutation of the options, the same for all methods, samples and machines."""
    keys = [hashlib.sha256(f"{seed}\x1f{problem_id}\x1f{i}".encode()).digest() for i in range(n_options)]
    return tuple(sorted(range(n_options), key=keys.__getitem__))


def shuffled_question(
    question: str, correct: str, incorrect: Sequence[str], problem_id: str
) -> tuple[str, str, tuple[str, ...]]:
    """(question with lettered options, gold letter, options in the order shown).

    The gold's place is carried, never looked up by its text.
    """
    options = [correct, *incorrect]
    if len(options) != len(LETTERS) or not all(option.strip() for option in options):
        raise KvreproError(f"problem {problem_id!r} needs {len(LETTERS)} non-empty options, found {len(options)}")
    order = option_order(problem_id, len(options))
    shown = tuple(options[i].strip() for i in order)
    lines = [f"{letter}) {text}" for letter, text in zip(LETTERS, shown, strict=True)]
    return question.strip() + "\n\n" + "\n".join(lines), LETTERS[order.index(0)], shown


def listed_options(question: str) -> tuple[str, ...]:
    """Options of a ready-made question that ends in lines `A) ...` to `D) ...`; empty if it has no such lines."""
    found = re.findall(r"^[ \t]*\(?([A-D])[).:][ \t]*(\S.*?)[ \t]*$", question, re.MULTILINE)[-len(LETTERS) :]
    return tuple(text for _, text in found) if "".join(letter for letter, _ in found) == LETTERS else ()
