"""What a benchmark is: problems with gold answers, and the one grading kind they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ANSWER_KINDS = ("integer", "number", "latex", "choice")


@dataclass(frozen=True)
class Problem:
    """One question; `question` is the user message as the model gets it, before the chat template.

    `options` of a multiple-choice problem: letter -> text, as `graders.grade` takes it; empty for all others.
    """

    problem_id: str
    question: str
    gold: str
    options: Mapping[str, str] = field(default_factory=dict, hash=False)


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

    @property
    def is_gated(self) -> bool:
        """Whether its rows come under terms that its users accept, so that results must not spread its questions."""
        return False
