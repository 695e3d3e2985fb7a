"""The child process that compares answers: JSON lines in, JSON lines out, under memory and file limits.

Started as `python -m kvrepro.graders.worker`; the parent (`pool`) keeps the time and kills it when it is over.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from kvrepro.graders.extraction import Extraction
from kvrepro.graders.score import Score

MEMORY_BYTES = 2 * 1024**3


def restrict() -> None:
    """Limits of the operating system: address space, no core files, nothing written to files."""
    try:
        import resource
    except ImportError:
        # no such limits on this system; the parent's time limit still holds
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


class Session:
    """Answers requests on two file descriptors."""

    def __init__(self, output: int):
        self.output = output
        self.has_symbolic = False

    def send(self, message: dict[str, Any]) -> None:
        """One JSON line to the parent."""
        os.write(self.output, json.dumps(message).encode() + b"\n")

    def prepare_symbolic(self) -> None:
        """Import math-verify outside the item's time: the parent waits longer for this."""
        if not self.has_symbolic:
            from kvrepro.graders import symbolic

            self.send({"stage": "loading"})
            symbolic.load()
            self.has_symbolic = True
        self.send({"stage": "symbolic"})

    def compare(self, request: dict[str, Any]) -> Score:
        """Score of one request, opened here if it was too long to be opened by the parent."""
        if "open" in request:
            from kvrepro.graders.strict import Pending, open_score

            opened = open_score(**request["open"])
            if not isinstance(opened, Pending):
                return opened
            request = {**request, "extraction": asdict(opened.extraction)}
        extraction = Extraction(**{**request["extraction"], "parts": tuple(request["extraction"]["parts"])})
        gold, kind = request["gold"], request["kind"]
        if request["grader"] == "strict":
            return self.strict(extraction, gold, kind)
        from kvrepro.graders import compat

        equal = compat.same_without_symbols(gold, extraction.answer or "")
        if equal is None:
            self.prepare_symbolic()
            equal = bool(compat.same_by_symbols(gold, extraction.answer or ""))
        return Score(equal, "ok", extraction.answer, f"{extraction.rule}:dynts")

    def strict(self, extraction: Extraction, gold: str, kind: str) -> Score:
        """Value rules first, math-verify for what they cannot read."""
        from kvrepro.graders.strict import Pending, close_score

        score = close_score(Pending(extraction), gold, kind)
        if score is not None:
            return score
        self.prepare_symbolic()
        from kvrepro.graders.symbolic import same_by_math_verify

        equal = same_by_math_verify(gold, extraction.answer or "")
        rule = "unparsed" if equal is None else "math_verify"
        return Score(bool(equal), "ok", extraction.answer, f"{extraction.rule}:{rule}")

    def serve(self) -> None:
        """Answer requests until the parent closes the pipe."""
        self.send({"stage": "ready"})
        for line in sys.stdin:
            request = json.loads(line)
            try:
                message = {"score": asdict(self.compare(request))}
            except Exception as error:
                # reported as its own status, never as a wrong answer; the parent decides what to do with it
                message = {
                    "error": type(error).__name__,
                    "text": str(error)[:300] if isinstance(error, ValueError) else "",
                }
            self.send(message)


def main() -> None:
    """Restrict this process, shut its outputs, serve."""
    restrict()
    # trees of long products are deep; the memory limit bounds what this allows
    sys.setrecursionlimit(20_000)
    # nothing that a library prints may reach the protocol
    output = os.dup(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    Session(output).serve()


if __name__ == "__main__":
    main()
