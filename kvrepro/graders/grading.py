"""What the rest of the package calls: `grade`, `grade_many`, and for votes `equivalence`.

Model text is read in workers only (`isolation`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from kvrepro.errors import KvreproError, check_known
from kvrepro.graders.isolation import score_all, score_one
from kvrepro.graders.score import FINISH_REASONS, GRADERS, KINDS, THOUGHT_END, THOUGHT_START, UNKNOWN_START, Score

# characters of a reply, from its end, that are read
MAX_SENT = 500_000
_NEEDED = ("response", "gold", "kind")
_NAMES = {
    "kind": ("answer kind", KINDS),
    "grader": ("grader", GRADERS),
    "finish_reason": ("finish reason", FINISH_REASONS),
}
_DEFAULTS = {"finish_reason": "stop", "options": None, "answer_start": UNKNOWN_START}


def grade(
    response: str,
    gold: str,
    kind: str,
    *,
    finish_reason: str = "stop",
    grader: str = "strict",
    options: Mapping[str, str] | None = None,
    answer_start: int | None = UNKNOWN_START,
) -> Score:
    """Grade one reply, in a worker process that stays alive for the next one.

    Args:
        response: the reply as generated, thought included.
        gold: the data set's answer.
        kind: integer, number, latex or choice.
        finish_reason: `stop`, or `length` if the token limit ended the reply.
        grader: `strict`, or `dynts_compat` for numbers that are to be compared with DynTS' tables.
        options: letter -> text of a multiple-choice problem, so that an option's text counts as its letter.
        answer_start: character at which the answer begins, as a run records it from token ids; None if no thought was
            closed: a truncated reply is then wrong, one that stopped by itself an answer as a whole. Unknown: the last
            `</think>` of the text is taken for the end of the thought. `dynts_compat` always searches the text, as
            DynTS does.

    The worker is killed after `isolation.TIME_LIMIT_S` (status `grader_timeout`) and may take `worker.MEMORY_BYTES`.
    """
    item = {"response": response, "gold": gold, "kind": kind, "finish_reason": finish_reason}
    return score_one(_request({**item, "options": options, "answer_start": answer_start}, grader))


def grade_many(
    items: Iterable[Mapping[str, Any] | Sequence[Any]], workers: int | None = None, *, grader: str = "strict"
) -> list[Score]:
    """Grade many replies in the order given; no single reply can stop the others.

    Args:
        items: mappings with the keys response, gold, kind and optionally finish_reason, options and answer_start (see
            `grade`; without the key it is unknown), or tuples (response, gold, kind[, finish_reason]).
        grader: for all items.
        workers: processes; default one per core, at most 8.
    """
    requests = [_request(item, grader, position) for position, item in enumerate(items)]
    return score_all(requests, workers or min(os.cpu_count() or 1, 8))


def _request(item: Mapping[str, Any] | Sequence[Any], grader: str, position: int = 0) -> dict[str, Any]:
    """What a worker is sent: the end of a long reply, with the tag that its beginning held."""
    if not isinstance(item, Mapping):
        if isinstance(item, str) or not 3 <= len(item) <= 4:
            raise KvreproError(
                f"item {position} is {type(item).__name__}; expected (response, gold, kind[, finish_reason])"
            )
        item = dict(zip((*_NEEDED, "finish_reason"), item, strict=False))
    wrong, missing = set(item) - {*_NEEDED, *_DEFAULTS}, set(_NEEDED) - set(item)
    if missing or wrong:
        raise KvreproError(
            f"item {position} lacks {sorted(missing)} and has unknown {sorted(wrong)}; "
            f"known: {sorted((*_NEEDED, *_DEFAULTS))}"
        )
    request = {**_DEFAULTS, **item, "options": dict(item.get("options") or {}), "grader": grader}
    _check(request)
    response, start = request["response"], request["answer_start"]
    dropped, sent = response[:-MAX_SENT], response[-MAX_SENT:]
    if dropped and THOUGHT_END not in sent:
        sent = next((tag for tag in (THOUGHT_END, THOUGHT_START) if tag in dropped), "") + sent
    if start is not None and start > 0:
        start = max(0, start - len(response) + len(sent))
    return {**request, "response": sent, "answer_start": start}


def _check(request: Mapping[str, Any]) -> None:
    """Reject what no reply could be graded against, and what is no reply."""
    for field, (name, known) in _NAMES.items():
        check_known(name, known, request[field])
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


def equivalence(kind: str) -> Callable[[str, str], bool]:
    """Equality of extracted answers under the strict grader's rules, for `metrics.maj_at`; it never sees the gold.

    Either answer may play the gold, so that the order of two answers does not matter. Comparisons run in a worker; one
    that fails there makes the answers different. Verdicts are remembered.
    """
    check_known("answer kind", KINDS, kind)

    def as_gold(gold: str, answer: str) -> bool:
        return score_one({"vote": answer, "gold": gold, "kind": kind, "grader": "strict"}).correct

    @cache
    def equivalent(first: str, second: str) -> bool:
        return "".join(first.split()) == "".join(second.split()) or as_gold(first, second) or as_gold(second, first)

    return equivalent
