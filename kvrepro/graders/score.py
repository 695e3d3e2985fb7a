"""What a grading returns, and the words it uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvrepro.errors import KvreproError, check_known

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


def check_request(request: Mapping[str, Any]) -> None:
    """Reject what no reply could be graded against, and what is no reply."""
    names = {"kind": KINDS, "grader": GRADERS, "finish_reason": FINISH_REASONS}
    for field, known in names.items():
        check_known({"kind": "answer kind"}.get(field, field.replace("_", " ")), known, request[field])
    gold, response, start = request["gold"], request["response"], request["answer_start"]
    if not isinstance(gold, str) or not gold.strip():
        raise KvreproError(f"gold answer {gold!r} is empty or no text; a reply cannot be graded against it")
    if not isinstance(response, str):
        raise KvreproError(f"response is {type(response).__name__}; expected the reply's text")
    if start is not None and (type(start) is not int or not UNKNOWN_START <= start <= len(response)):
        raise KvreproError(
            f"answer_start={start!r}; expected a position in the reply's {len(response)} characters, or None "
            "where its thought never closed"
        )
