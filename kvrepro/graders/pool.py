"""Worker processes for comparing answers: one item at a time each, killed and restarted when one goes wrong."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kvrepro.errors import KvreproError
from kvrepro.graders.score import Score

TIME_LIMIT_S = 8.0
# starting Python and importing math-verify is not the item's fault
START_LIMIT_S = 120.0


class WorkerTimeoutError(Exception):
    """The item used up its time."""


class WorkerDiedError(Exception):
    """The process ended: out of memory, or killed."""


class Worker:
    """One child process, started on first use."""

    def __init__(self, time_limit_s: float = TIME_LIMIT_S):
        self.time_limit_s = time_limit_s
        self.process: subprocess.Popen[bytes] | None = None
        self.pending = b""
        self.owner = os.getpid()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process; it imports this package from where the parent did."""
        package = Path(__file__).resolve().parents[2]
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        self.pending = b""
        self.owner = os.getpid()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kvrepro.child", str(os.getpid()), "kvrepro.graders.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        return self.process

    def close(self) -> None:
        """Kill the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    # what is unsent of a request goes to a process that is gone
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
            self.process = None

    def line(self, deadline: float) -> dict[str, Any]:
        """Next message of the process.

        Raises:
            WorkerTimeoutError: nothing came before `deadline` (monotonic seconds).
            WorkerDiedError: the process ended.
        """
        assert self.process is not None
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self.pending:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise WorkerTimeoutError
            received = os.read(descriptor, 65536)
            if not received:
                raise WorkerDiedError
            self.pending += received
        line, _, self.pending = self.pending.partition(b"\n")
        return json.loads(line)

    def compare(self, request: dict[str, Any]) -> Score:
        """Score of one request; a worker that fails is killed, and the next request starts a new one."""
        extraction = request.get("extraction", {"answer": None, "rule": "reply"})
        answer, rule = extraction["answer"], extraction["rule"]
        try:
            message = self._exchange(request)
        except WorkerTimeoutError:
            self.close()
            return Score(False, "grader_timeout", answer, f"{rule}:timeout")
        except (WorkerDiedError, BrokenPipeError):
            self.close()
            return Score(False, "grader_error", answer, f"{rule}:worker_died")
        if "score" in message:
            return Score(**message["score"])
        if message["error"] == "KvreproError":
            raise KvreproError(message["text"])
        # memory that a failed item took may not have been given back
        self.close()
        return Score(False, "grader_error", answer, f"{rule}:{message['error']}")

    def _exchange(self, request: dict[str, Any]) -> dict[str, Any]:
        # after a fork the process still belongs to the parent
        is_new = self.process is None or self.owner != os.getpid() or self.process.poll() is not None
        process = self.start() if is_new else self.process
        assert process is not None
        assert process.stdin is not None
        if is_new:
            self.line(time.monotonic() + START_LIMIT_S)
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        deadline = time.monotonic() + self.time_limit_s
        while True:
            message = self.line(deadline)
            if "stage" not in message:
                return message
            deadline = time.monotonic() + (START_LIMIT_S if message["stage"] == "loading" else self.time_limit_s)


def compare_all(requests: Sequence[dict[str, Any]], workers: int, time_limit_s: float = TIME_LIMIT_S) -> list[Score]:
    """Scores in the order of the requests."""
    results: list[Score | None] = [None] * len(requests)
    failures: list[BaseException] = []
    positions = iter(range(len(requests)))
    lock = threading.Lock()

    def run() -> None:
        worker = Worker(time_limit_s)
        try:
            while not failures:
                with lock:
                    position = next(positions, None)
                if position is None:
                    return
                results[position] = worker.compare(requests[position])
        except BaseException as error:
            failures.append(error)
        finally:
            worker.close()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(max(1, min(workers, len(requests))))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return [score for score in results if score is not None]


_single = Worker()
_single_lock = threading.Lock()
atexit.register(_single.close)


def compare_one(request: dict[str, Any]) -> Score:
    """Score of one request by a worker that stays alive for the next one."""
    with _single_lock:
        return _single.compare(request)
