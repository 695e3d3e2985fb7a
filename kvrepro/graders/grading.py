"""`grade` and `grade_many`: what the rest of the package calls."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from kvrepro.errors import KvreproError
from kvrepro.graders.extraction import THOUGHT_END, answer_part
from kvrepro.graders.score import Score, check_request
from kvrepro.graders.strict import open_score

# longer answer parts are read by a worker, under its time limit
MAX_INLINE = 6_000
MAX_SENT = 500_000
_ITEM_KEYS = {"response", "gold", "kind", "finish_reason", "options", "answer_start"}
UNKNOWN_START = -1


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
    """Grade one reply.

    Args:
        response: the reply as generated, thought included.
        gold: the data set's answer.
        kind: integer, number, latex or choice.
        finish_reason: `stop`, or `length` if the token limit ended the reply.
        grader: `strict`, or `dynts_compat` for numbers that are to be compared with DynTS' tables.
        options: letter -> text of a multiple-choice problem, so that an option's text counts as its letter.
    Plain integers and letters are compared here; everything else goes to a worker process that is killed after
    `pool.TIME_LIMIT_S` and may take `worker.MEMORY_BYTES`.
    """
    started = _start(response, gold, kind, finish_reason, options, answer_start, grader)
    if isinstance(started, Score):
        return started
    from kvrepro.graders.pool import compare_one

    return compare_one(started)


def grade_many(
    items: Iterable[Mapping[str, Any] | Sequence[Any]], workers: int | None = None, *, grader: str = "strict"
) -> list[Score]:
    """Grade many replies in the order given; no single reply can stop the others.

    Args:
        items: mappings with the keys response, gold, kind and optionally finish_reason and options, or tuples
            (response, gold, kind[, finish_reason]).
        grader: for all items.
        workers: processes; default one per core, at most 8. None is started if no item needs one.
    """
    started = [_start(*_fields(item, position), grader=grader) for position, item in enumerate(items)]
    requests = [entry for entry in started if not isinstance(entry, Score)]
    if not requests:
        return [entry for entry in started if isinstance(entry, Score)]
    from kvrepro.graders.pool import compare_all

    compared = iter(compare_all(requests, workers or min(os.cpu_count() or 1, 8)))
    return [entry if isinstance(entry, Score) else next(compared) for entry in started]


def _fields(item: Mapping[str, Any] | Sequence[Any], position: int) -> tuple[Any, ...]:
    if isinstance(item, Mapping):
        wrong = set(item) - _ITEM_KEYS
        missing = {"response", "gold", "kind"} - set(item)
        if missing or wrong:
            raise KvreproError(
                f"item {position} lacks {sorted(missing)} and has unknown {sorted(wrong)}; known: {sorted(_ITEM_KEYS)}"
            )
        return (
            item["response"], item["gold"], item["kind"], item.get("finish_reason", "stop"), item.get("options"),
            item.get("answer_start", UNKNOWN_START),
        )  # fmt: skip
    if isinstance(item, str) or not 3 <= len(item) <= 4:
        raise KvreproError(
            f"item {position} is {type(item).__name__}; expected (response, gold, kind[, finish_reason])"
        )
    return item[0], item[1], item[2], item[3] if len(item) > 3 else "stop", None, UNKNOWN_START


def _start(
    response: str,
    gold: str,
    kind: str,
    finish_reason: str,
    options: Mapping[str, str] | None = None,
    answer_start: int | None = UNKNOWN_START,
    grader: str = "strict",
) -> Score | dict[str, Any]:
    check_request(gold, kind, finish_reason, grader)
    if not isinstance(response, str):
        raise KvreproError(f"response is {type(response).__name__}; expected the reply's text")
    if answer_start is None:
        return Score(False, "truncated" if finish_reason == "length" else "no_answer", None, "none")
    if answer_start != UNKNOWN_START:
        response = THOUGHT_END + response[answer_start:].replace(THOUGHT_END, "")
    if grader == "strict":
        text = answer_part(response, finish_reason)[1]
        if text is not None and len(text) > MAX_INLINE:
            whole = {"response": response[-MAX_SENT:], "finish_reason": finish_reason, "options": dict(options or {})}
            if THOUGHT_END not in whole["response"]:
                whole["response"] = THOUGHT_END + whole["response"]
            return {"open": {**whole, "gold": gold, "kind": kind}, "gold": gold, "kind": kind, "grader": grader}
        opened = open_score(response, gold, kind, finish_reason, options)
    else:
        from kvrepro.graders.compat import open_compat

        opened = open_compat(response, gold, kind)
    if isinstance(opened, Score):
        return opened
    return {"extraction": asdict(opened.extraction), "gold": gold, "kind": kind, "grader": grader}
