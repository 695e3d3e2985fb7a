"""What a grading returns, and the words it uses."""

from __future__ import annotations

from dataclasses import dataclass

from kvrepro.errors import KvreproError, UnknownNameError

KINDS = ("integer", "number", "latex", "choice")
GRADERS = ("strict", "dynts_compat")
FINISH_REASONS = ("stop", "length")
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


class GraderError(RuntimeError):
    """Grading failed for a reason of ours, not of the reply; becomes the status `grader_error`."""


def check_request(gold: str, kind: str, finish_reason: str, grader: str) -> None:
    """Reject what no reply could be graded against."""
    if kind not in KINDS:
        raise UnknownNameError("answer kind", kind, KINDS)
    if grader not in GRADERS:
        raise UnknownNameError("grader", grader, GRADERS)
    if finish_reason not in FINISH_REASONS:
        raise UnknownNameError("finish reason", finish_reason, FINISH_REASONS)
    if not isinstance(gold, str) or not gold.strip():
        raise KvreproError(f"gold answer {gold!r} is empty or no text; a reply cannot be graded against it")
