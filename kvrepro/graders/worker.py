"""The child process that reads replies and compares answers: JSON lines in and out, under the limits of the system.

Started as `python -m kvrepro.graders.worker`. It imports what reading needs and then forks a process that serves
request after request; a reply that takes too long, too much memory or the whole interpreter ends that one only, and the
next is forked in milliseconds, with everything imported.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from resource import RLIMIT_AS, RLIMIT_CORE, RLIMIT_FSIZE, setrlimit
from typing import Any

from kvrepro.graders import dynts, strict
from kvrepro.graders.compare import symbolic
from kvrepro.graders.score import Score

MEMORY_BYTES = 2 * 1024**3
# between two looks whether the parent lives
WATCH_S = 1.0
# how a serving process ends: nothing more to do, math-verify is to be imported first, or an error was reported
DONE, NEEDS_SYMBOLIC, FAILED = 0, 3, 4


def send(output: int, message: dict[str, Any]) -> None:
    """One JSON line to the parent."""
    os.write(output, json.dumps(message).encode() + b"\n")


def score(request: dict[str, Any], output: int) -> Score:
    """Score of one request: a reply, or with `vote` an answer that was read before."""
    gold, kind, grader = request.pop("gold"), request.pop("kind"), request.pop("grader")
    if "vote" in request:
        found = strict.read_vote(request["vote"], gold, kind)
    elif grader == "strict":
        found = strict.read(gold=gold, kind=kind, **request)
    else:
        found = dynts.read(request["response"], gold, kind)
    if isinstance(found, Score):
        return found
    send(output, {"stage": "read", "answer": found.answer, "rule": found.rule})
    return strict.compare(found, gold, kind) if grader == "strict" else dynts.compare(found, gold)


def serve(output: int) -> int:
    """Answer requests until the parent closes the pipe, or one goes wrong; returns how it ended."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for line in sys.stdin:
        request = json.loads(line)
        # the system ends this process when the time is over, whatever it is in the middle of
        signal.setitimer(signal.ITIMER_REAL, request.pop("limit_s"))
        try:
            message = {"score": asdict(score(request, output))}
        except symbolic.SymbolicNeededError:
            return NEEDS_SYMBOLIC
        except Exception as error:
            # reported as its own status, never as a wrong answer; memory that it took may not have been given back
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(output, {"error": type(error).__name__})
            return FAILED
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(output, message)
    return DONE


def keep_serving(output: int) -> None:
    """Keep one serving process alive until the parent closes the pipe; report what it could not report itself."""
    while True:
        child = os.fork()
        if child == 0:
            os._exit(serve(output))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == DONE:
            return
        if code == NEEDS_SYMBOLIC:
            # for all processes forked from here on
            import math_verify  # noqa: F401

            send(output, {"stage": "again"})
        elif code != FAILED:
            send(output, {"error": "timeout" if code == -signal.SIGALRM else "worker_died"})


def main() -> None:
    """Restrict this process, shut its outputs, serve."""
    # address space, no core files, nothing written to files
    for limit, size in ((RLIMIT_AS, MEMORY_BYTES), (RLIMIT_CORE, 0), (RLIMIT_FSIZE, 0)):
        setrlimit(limit, (size, size))
    # an interrupt is meant for the parent, which ends its workers; without a parent they end themselves
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGKILL) if os.getppid() != parent else None)
    signal.setitimer(signal.ITIMER_REAL, WATCH_S, WATCH_S)
    # trees of long products are deep; the memory limit bounds what this allows
    sys.setrecursionlimit(20_000)
    # nothing that a library prints may reach the protocol
    output = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    send(output, {"stage": "ready"})
    keep_serving(output)


if __name__ == "__main__":
    main()
