"""What a grading returns, and the words it uses."""

from __future__ import annotations

from dataclasses import dataclass

from kvrepro.errors import KvreproError, UnknownNameError

KINDS = ("integer", "number", "latex", "choice")
GRADERS = ("strict", "dynts_compat")
# of `strict`; raised when a verdict changes, so that a table can say which of its scores are of an older grader
REVISION = 2
FINISH_REASONS = ("stop", "length")
THOUGHT_START, THOUGHT_END = "<think>", "</think>"
# `answer_start` of a reply of which nobody recorded where its answer begins
UNKNOWN_START = -1
STATUSES = ("ok", "no_answer", "ambiguous", "truncated", "too_long", "grader_timeout", "grader_error")


@dataclass(frozen=True)
class Score:
    """Verdict on one reply.

    Args:
        correct: whether the answer equals the gold; False for every status other than `ok`.
        status: `ok` (an answer was compared), `no_answer`, `ambiguous` (several choices at once), `truncated` (token
            limit inside the thought), `too_long` (answer over the length cap), `grader_timeout`, `grader_error`.
        answer: the extracted answer as written, or None.
        rule: extraction and comparison that decided, as `<extraction>:<comparison>`.
    """

    correct: bool
    status: str
    answer: str | None
    rule: str


def check_request(
    response: str, gold: str, kind: str, finish_reason: str, grader: str, answer_start: int | None
) -> None:
    """Reject what no reply could be graded against, and what is no reply."""
    if kind not in KINDS:
        raise UnknownNameError("answer kind", kind, KINDS)
    if grader not in GRADERS:
        raise UnknownNameError("grader", grader, GRADERS)
    if finish_reason not in FINISH_REASONS:
        raise UnknownNameError("finish reason", finish_reason, FINISH_REASONS)
    if not isinstance(gold, str) or not gold.strip():
        raise KvreproError(f"gold answer {gold!r} is empty or no text; a reply cannot be graded against it")
    if not isinstance(response, str):
        raise KvreproError(f"response is {type(response).__name__}; expected the reply's text")
    if answer_start is None:
        return
    is_whole = isinstance(answer_start, int) and not isinstance(answer_start, bool)
    if not is_whole or not UNKNOWN_START <= answer_start <= len(response):
        raise KvreproError(
            f"answer_start={answer_start!r}; expected a position in the reply's {len(response)} characters, or None "
            "where its thought never closed"
        )
