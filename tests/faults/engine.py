"""What a kernel of the stand-in project runs in the engine's place: no model is run, and all that happens is journaled.

`install` replaces `Engine.run` alone, so completions, resuming, shards, grading and manifest are the package's own. The
journal lies outside the results and is written by the operating system's append alone, so that what ran twice, at once
or never is counted by it and not by the code under test.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from kvrepro.engine.engine import Engine
from kvrepro.engine.requests import OK, Completion, Request, RunStats

JOURNAL, CELL, REPLY_S = "FAULTS_JOURNAL", "FAULTS_CELL", "FAULTS_REPLY_S"
START, MADE, KEPT, END = "start", "made", "kept", "end"


def note(event: str, **values: object) -> None:
    """Append one line to the journal, whole whatever else appends at that moment."""
    row = {"event": event, "cell": cell_id(), "pid": os.getpid(), "t": time.time(), **values}
    row["device"] = os.environ.get("CUDA_VISIBLE_DEVICES")
    file = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, json.dumps(row).encode() + b"\n")
    finally:
        os.close(file)


def cell_id() -> str:
    """Of this process: as its notebook says, else as it was asked for."""
    return os.environ.get(CELL) or sys.argv[sys.argv.index("--cell") + 1]


def run(engine: Engine, requests: Iterable[Request]) -> Iterator[Completion]:
    """A reply of four tokens per request, one after the other; a row is `kept` once whoever asked has come back."""
    sizes = {"kv_bytes": 64, "capacity_tokens": 8, "bytes_per_slot": 8, "batch_rows": 1, "kv_tokens_peak": 8}
    engine.stats = RunStats(**sizes)
    note(START)
    for request in requests:
        time.sleep(float(os.environ[REPLY_S]))
        reply = {"problem": request.problem_id, "sample": request.sample_id}
        note(MADE, **reply)
        engine.stats.steps += 4
        engine.stats.decoded_tokens += 4
        engine.stats.forward_s += float(os.environ[REPLY_S])
        tokens = [1 + request.sample_id, 5, 6, 7]
        yield Completion(request, tokens, OK, has_closed=True, n_thinking_tokens=2, peak_tokens=8)
        note(KEPT, **reply)
    note(END)


def install() -> None:
    """Have every engine of this process, and of its forks, run nothing."""
    Engine.run = run


def read_journal(path: Path) -> list[dict]:
    """All that was noted so far; a line that is being written is left out."""
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]
