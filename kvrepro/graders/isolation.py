"""Processes that read replies: one item at a time each, and a reply that goes wrong ends alone.

They are started as programs of their own, neither forked (unsafe beside torch's threads) nor by `multiprocessing`
(which runs the caller's script again), stay alive for the next request, and end with the process that started them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kvrepro.errors import KvreproError, RunError
from kvrepro.graders.score import Score

TIME_LIMIT_S = 8.0


class Worker:
    """One child process (`worker`), started on first use."""

    # no type checker follows that its pipes are there once it runs
    process: Any = None

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
        paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-P", "-m", "kvrepro.graders.worker"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # not by way of `runs.processes`: the system would end it with the thread that started it, not with the process
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **pipes)
        try:
            self._receive()
        except EOFError as error:
            self.close()
            raise RunError(f"the process that grades did not start; `{' '.join(command)}` shows why") from error

    def close(self) -> None:
        """Kill the process and what it forked, if there is one."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        # what is unsent of a request goes to a process that is gone
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()

    def _receive(self) -> dict[str, Any]:
        if line := self.process.stdout.readline():
            return json.loads(line)
        raise EOFError

    def score(self, request: dict[str, Any], time_limit_s: float = TIME_LIMIT_S) -> Score:
        """Score of one request; where a worker fails as a whole the next request starts a new one.

        Args:
            time_limit_s: for reading and comparing; starting and importing do not count.
        """
        self.start()
        request = {**request, "limit_s": time_limit_s}
        read, message = {"answer": None, "rule": "reply"}, {"stage": "again"}
        try:
            while stage := message.get("stage"):
                if stage == "again":
                    self.process.stdin.write(json.dumps(request).encode() + b"\n")
                    self.process.stdin.flush()
                else:
                    read = message
                message = self._receive()
        except (EOFError, OSError, ValueError):
            # it ended, or another thread closed it
            message = {"error": "worker_died"}
        if "score" in message:
            return Score(**message["score"])
        if message["error"] == "worker_died":
            # it may have died of what was no request, and one message must answer one request
            self.close()
        status = "grader_timeout" if message["error"] == "timeout" else "grader_error"
        return Score(False, status, read["answer"], f"{read['rule']}:{message['error']}")


_idle: deque[Worker] = deque()
if hasattr(os, "register_at_fork"):
    # after a fork the workers belong to the parent
    os.register_at_fork(after_in_child=_idle.clear)


@contextlib.contextmanager
def worker() -> Iterator[Worker]:
    """A worker that nobody else uses; it stays alive for the next one who asks."""
    try:
        borrowed = _idle.pop()
    except IndexError:
        borrowed = Worker()
    try:
        yield borrowed
    finally:
        _idle.append(borrowed)


def score_one(request: dict[str, Any]) -> Score:
    """Score of one request."""
    with worker() as free:
        return free.score(request)


def score_all(requests: Sequence[dict[str, Any]], workers: int, time_limit_s: float = TIME_LIMIT_S) -> list[Score]:
    """Scores in the order of the requests, by so many workers at once."""
    busy: set[Worker] = set()

    def score(request: dict[str, Any]) -> Score:
        with worker() as mine:
            busy.add(mine)
            return mine.score(request, time_limit_s)

    with ThreadPoolExecutor(max(1, min(workers, len(requests)))) as threads:
        futures = [threads.submit(score, request) for request in requests]
        try:
            return [future.result() for future in futures]
        except BaseException:
            # interrupted, or grading is impossible: what is being read ends, and nothing more is begun
            threads.shutdown(wait=False, cancel_futures=True)
            for each in busy:
                each.close()
            raise
