"""What a grading returns, and the words it uses."""

from __future__ import annotations

from dataclasses import dataclass

KINDS = ("integer", "number", "latex", "choice")
GRADERS = ("strict", "dynts_compat")
# of `strict`; raised when a verdict changes, so that a table can say which of its scores are of an older grader
REVISION = 3
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
