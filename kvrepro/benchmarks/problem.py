"""What a benchmark is: problems with gold answers, and the one grading kind they share."""

from __future__ import annotations

import string
from dataclasses import dataclass

ANSWER_KINDS = ("integer", "number", "latex", "choice")


@dataclass(frozen=True)
class Problem:
    """One question; `question` is the user message as the model gets it, before the chat template.

    `options` are the texts of a multiple-choice problem in the order of its letters A, B, ...; empty for all others.
    """

    problem_id: str
    question: str
    gold: str
    options: tuple[str, ...] = ()

    @property
    def lettered_options(self) -> dict[str, str]:
        """Letter -> text, as `graders.grade` takes it."""
        return dict(zip(string.ascii_uppercase, self.options, strict=False))


@dataclass(frozen=True)
class Benchmark:
    """One table entry. `kind` is one of `ANSWER_KINDS` and chooses the grading rules.

    `sha256` is of the rows file where the package ships it, else None.
    """

    name: str
    title: str
    kind: str
    n_problems: int
    source: str
    sha256: str | None = None
