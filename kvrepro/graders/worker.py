"""The child process that reads replies and compares answers: JSON lines in and out, under the limits of the system.

Started as `python -m kvrepro.graders.worker`. It imports what reading needs and then forks, once, a process that serves
request after request; a reply that takes too long, too much memory or the whole interpreter ends that one only, and the
next is forked in milliseconds, with everything imported.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from kvrepro.errors import KvreproError
from kvrepro.graders import dynts
from kvrepro.graders.extract.answer import Extraction
from kvrepro.graders.extract.choice import read_choice
from kvrepro.graders.score import Score
from kvrepro.graders.strict import Pending, close_score, open_score

MEMORY_BYTES = 2 * 1024**3
# between two looks whether the parent lives
WATCH_S = 1.0
# how a serving process ends: nothing more to do, math-verify is to be imported first, or an error was reported
DONE, NEEDS_SYMBOLIC, FAILED = 0, 3, 4


def restrict() -> None:
    """Limits of the operating system: address space, no core files, nothing written to files."""
    try:
        import resource
    except ImportError:
        # no such limits on this system; the time limit still holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def send(output: int, message: dict[str, Any]) -> None:
    """One JSON line to the parent."""
    os.write(output, json.dumps(message).encode() + b"\n")


class SymbolicNeededError(Exception):
    """Only math-verify can tell, and it is not imported yet."""


def require_symbolic() -> None:
    """Stop here unless math-verify is imported, which takes seconds and must not count as the item's."""
    if "math_verify" not in sys.modules:
        raise SymbolicNeededError


class Session:
    """Answers requests from standard input on a file descriptor."""

    def __init__(self, output: int):
        self.output = output

    def score(self, request: dict[str, Any]) -> Score:
        """Score of one request: a reply, or with `vote` an answer that was read before."""
        gold, kind, grader = request.pop("gold"), request.pop("kind"), request.pop("grader")
        if "vote" in request:
            if kind == "choice":
                return Score(_same_letter(gold, request["vote"]), "ok", request["vote"], "vote:letter")
            opened: Score | Pending = Pending(Extraction("ok", request["vote"], "vote"))
        elif grader == "strict":
            opened = open_score(gold=gold, kind=kind, **request)
        else:
            opened = dynts.open_compat(request["response"], gold, kind)
        if isinstance(opened, Score):
            return opened
        read = opened.extraction
        send(self.output, {"stage": "read", "answer": read.answer, "rule": read.rule})
        return self.strict(opened, gold, kind) if grader == "strict" else self.compat(opened, gold)

    def compat(self, pending: Pending, gold: str) -> Score:
        """DynTS' comparison."""
        answer = pending.extraction.answer or ""
        equal = dynts.same_without_symbols(gold, answer)
        if equal is None:
            require_symbolic()
            equal = bool(dynts.same_by_symbols(gold, answer))
        return Score(equal, "ok", answer, f"{pending.extraction.rule}:dynts")

    def strict(self, pending: Pending, gold: str, kind: str) -> Score:
        """Value rules first, math-verify for what they cannot read."""
        score = close_score(pending, gold, kind)
        if score is not None:
            return score
        require_symbolic()
        from kvrepro.graders.compare.symbolic import same_by_math_verify

        extraction = pending.extraction
        equal = same_by_math_verify(gold, extraction.answer or "")
        rule = "unparsed" if equal is None else "math_verify"
        return Score(bool(equal), "ok", extraction.answer, f"{extraction.rule}:{rule}")

    def serve(self) -> int:
        """Answer requests until the parent closes the pipe, or one goes wrong; returns how it ended."""
        for line in sys.stdin:
            request = json.loads(line)
            # the system ends this process when the time is over, whatever it is in the middle of
            signal.setitimer(signal.ITIMER_REAL, request.pop("limit_s"))
            try:
                message = {"score": asdict(self.score(request))}
            except SymbolicNeededError:
                return NEEDS_SYMBOLIC
            except Exception as error:
                # reported as its own status, never as a wrong answer; the parent decides what to do with it
                signal.setitimer(signal.ITIMER_REAL, 0)
                text = str(error)[:300] if isinstance(error, ValueError) else ""
                send(self.output, {"error": type(error).__name__, "text": text})
                # memory that a failed item took may not have been given back
                return FAILED
            signal.setitimer(signal.ITIMER_REAL, 0)
            send(self.output, message)
        return DONE


def _same_letter(first: str, second: str) -> bool:
    letter = read_choice(first)
    return letter is not None and letter == read_choice(second)


class Keeper:
    """Keeps one serving process alive: forks it, waits for its end, reports what it could not report itself."""

    def __init__(self, output: int):
        self.output = output
        self.child = 0

    def run(self) -> None:
        """Fork serving processes until the parent closes the pipe."""
        signal.signal(signal.SIGTERM, self.end)
        parent = os.getppid()
        signal.signal(signal.SIGALRM, lambda *_: self.end() if os.getppid() != parent else None)
        signal.setitimer(signal.ITIMER_REAL, WATCH_S, WATCH_S)
        send(self.output, {"stage": "ready"})
        while True:
            self.child = os.fork()
            if self.child == 0:
                for number in (signal.SIGTERM, signal.SIGALRM):
                    signal.signal(number, signal.SIG_DFL)
                os._exit(Session(self.output).serve())
            _, status = os.waitpid(self.child, 0)
            self.child = 0
            code = os.waitstatus_to_exitcode(status)
            if code == DONE:
                return
            if code == NEEDS_SYMBOLIC:
                send(self.output, import_symbolic())
            elif code != FAILED:
                send(self.output, {"error": "timeout" if code == -signal.SIGALRM else "worker_died"})

    def end(self, *_: object) -> None:
        """End with the serving process."""
        if self.child:
            os.kill(self.child, signal.SIGKILL)
        os._exit(DONE)


def import_symbolic() -> dict[str, Any]:
    """Import math-verify for all processes forked from here on; the message for the parent."""
    from kvrepro.graders.compare import symbolic

    try:
        symbolic.load()
    except KvreproError as error:
        return {"error": "KvreproError", "text": str(error)}
    return {"stage": "again"}


def main() -> None:
    """Restrict this process, shut its outputs, serve."""
    restrict()
    # an interrupt is meant for the parent, which ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # trees of long products are deep; the memory limit bounds what this allows
    sys.setrecursionlimit(20_000)
    # nothing that a library prints may reach the protocol
    output = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    Keeper(output).run()


if __name__ == "__main__":
    main()
