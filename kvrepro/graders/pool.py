"""Worker processes that read replies: one item at a time each, which ends alone when it goes wrong.

They are started as programs of their own, neither forked (unsafe beside torch's threads) nor by `multiprocessing`
(which runs the caller's script again), and stay alive for the next request until Python ends.
"""

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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kvrepro.errors import KvreproError, RunError
from kvrepro.graders.score import Score

TIME_LIMIT_S = 8.0
# starting Python and importing math-verify is not the item's fault, and the system keeps an item's time
START_LIMIT_S = 120.0


class WorkerTimeoutError(Exception):
    """The process says nothing, although the system should have ended it."""


class WorkerDiedError(Exception):
    """The process ended: out of memory, or killed."""


class Worker:
    """One child process, started on first use."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.pending = b""

    def start(self) -> None:
        """Start the process unless it runs; it imports this package from where the parent did.

        Raises:
            KvreproError: a system without fork.
            RunError: it does not start.
        """
        if self.process is not None and self.process.poll() is None:
            return
        if not hasattr(os, "fork"):
            raise KvreproError(
                f"replies are graded in processes that {sys.platform} cannot fork; grade on Linux, macOS or WSL"
            )
        self.close()
        package = Path(__file__).resolve().parents[2]
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        # not by way of `kvrepro.runs.processes`: it would end with the thread that started it, not with the process
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "kvrepro.graders.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        _running.add(self)
        try:
            self.line(time.monotonic() + START_LIMIT_S)
        except (WorkerTimeoutError, WorkerDiedError) as error:
            self.close()
            raise RunError(
                f"the process that grades did not start; `{sys.executable} -m kvrepro.graders.worker` shows why"
            ) from error

    def close(self) -> None:
        """Kill the process, if there is one."""
        _running.discard(self)
        self.pending = b""
        if self.process is not None:
            # it ends with the process that it forked
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
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

    def score(self, request: dict[str, Any], time_limit_s: float = TIME_LIMIT_S) -> Score:
        """Score of one request; where a worker fails as a whole the next request starts a new one.

        Args:
            time_limit_s: for reading and comparing; starting and importing do not count.
        """
        found: dict[str, Any] = {"answer": None, "rule": "reply"}
        try:
            message = self._exchange({**request, "limit_s": time_limit_s}, found)
        except WorkerTimeoutError:
            self.close()
            message = {"error": "timeout"}
        except (WorkerDiedError, BrokenPipeError):
            message = {"error": "worker_died"}
        if "score" in message:
            return Score(**message["score"])
        if message["error"] == "KvreproError":
            raise KvreproError(message["text"])
        if message["error"] == "worker_died":
            # it may have died of what was no request, and one message must answer one request
            self.close()
        status = "grader_timeout" if message["error"] == "timeout" else "grader_error"
        return Score(False, status, found["answer"], f"{found['rule']}:{message['error']}")

    def _exchange(self, request: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        """The last message about a request; `found` takes the answer as soon as the worker has read it."""
        self.start()
        assert self.process is not None
        assert self.process.stdin is not None
        deadline = time.monotonic() + request["limit_s"] + START_LIMIT_S
        stage = "again"
        while stage is not None:
            if stage == "again":
                self.process.stdin.write(json.dumps(request).encode() + b"\n")
                self.process.stdin.flush()
            message = self.line(deadline)
            stage = message.get("stage")
            if stage == "read":
                found.update(answer=message["answer"], rule=message["rule"])
        return message


_lock = threading.Lock()
_idle: list[Worker] = []
_running: set[Worker] = set()


@contextlib.contextmanager
def worker() -> Iterator[Worker]:
    """A worker that nobody else uses; it stays alive for the next one who asks."""
    with _lock:
        borrowed = _idle.pop() if _idle else Worker()
    try:
        yield borrowed
    finally:
        with _lock:
            _idle.append(borrowed)


def close_all() -> None:
    """Kill every worker, those in use too."""
    for started in list(_running):
        started.close()


def _forget() -> None:
    """After a fork the workers, and whoever holds the lock, belong to the parent."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()
    _running.clear()


atexit.register(close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def score_one(request: dict[str, Any]) -> Score:
    """Score of one request."""
    with worker() as free:
        return free.score(request)


def score_all(requests: Sequence[dict[str, Any]], workers: int, time_limit_s: float = TIME_LIMIT_S) -> list[Score]:
    """Scores in the order of the requests, by so many workers at once."""
    results: list[Score | None] = [None] * len(requests)
    failures: list[BaseException] = []
    busy: list[Worker] = []
    positions = iter(range(len(requests)))
    lock = threading.Lock()

    def run() -> None:
        try:
            with worker() as mine:
                busy.append(mine)
                while not failures:
                    with lock:
                        position = next(positions, None)
                    if position is None:
                        return
                    results[position] = mine.score(requests[position], time_limit_s)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(max(1, min(workers, len(requests))))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:
        # interrupted: what is being read ends, and nothing more is begun
        failures.append(error)
        for each in busy:
            each.close()
        raise
    if failures:
        raise failures[0]
    return [score for score in results if score is not None]
