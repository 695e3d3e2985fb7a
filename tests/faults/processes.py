"""Commands of kvrepro as forks of one server that has loaded all, so that a grid starts in no time; and who is left.

The server is the grids' own (`forks`): what it forks is a whole process with files, environment, session and exit code
of its own, and commands, cells and kernels of all trials come from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import psutil

from kvrepro.paths import PACKAGE, fork_server_environment
from kvrepro.runs import fork_server
from kvrepro.runs.processes import child_command

from ..kill_grid import LIMIT_S, writing_below

__all__ = ["LIMIT_S", "Forked", "Server", "Started", "runs", "server", "until", "words", "writing_below"]
START_LIMIT_S = 120.0  # of the server; a loaded machine takes its time
GRID_LIMIT_S = 180.0  # for what a loaded machine does slowly


class Forked:
    """`kvrepro ARGUMENTS` in a fork, its output in files `NAME.out` and `NAME.err`."""

    def __init__(self, address: str, arguments: Sequence[str], environment: Mapping[str, str], place: Path):
        self.out, self.err = place.with_suffix(".out"), place.with_suffix(".err")
        request = {"module": "kvrepro", "arguments": list(arguments), "folder": str(place.parent)}
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.settimeout(START_LIMIT_S)
        self._connection.connect(f"\0{address}")
        with open(os.devnull) as nothing, self.out.open("w") as out, self.err.open("w") as err:
            socket.send_fds(self._connection, [b"0"], [file.fileno() for file in (nothing, out, err)])
            self._connection.sendall(json.dumps({**request, "environment": dict(environment)}).encode() + b"\n")
            self._answers = self._connection.makefile("rb", buffering=0)
            self.pid = int(self._answers.readline())
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, as a shell has it where a signal ended it; None while it runs."""
        if self._code is None and select.select([self._connection], [], [], 0)[0]:
            said = self._answers.readline().split()
            code = int(said[1]) if said else -signal.SIGKILL
            self._code = code if code >= 0 else 128 - code
            self._connection.close()
        return self._code

    def send_signal(self, number: int) -> None:
        """As of a process; one that has ended gets none."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


class Started:
    """`kvrepro ARGUMENTS` in a process that loads everything itself; a grid has a fork server of its own."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], place: Path):
        self.out, self.err = place.with_suffix(".out"), place.with_suffix(".err")
        command = [sys.executable, "-m", "kvrepro", *arguments]
        with self.out.open("w") as out, self.err.open("w") as err:
            self._process = subprocess.Popen(command, env=environment, stdout=out, stderr=err)
        self.pid, self.send_signal = self._process.pid, self._process.send_signal

    def poll(self) -> int | None:
        """As of a fork."""
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code


class Server:
    """The server of the trials: it forks for everyone who has its address."""

    def __init__(self, address: str, pid: int):
        self.address, self.pid = address, pid

    def forks(self) -> list[psutil.Process]:
        """All that it has forked and that still runs."""
        return [process for process in psutil.Process(self.pid).children() if runs(process)]


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """A server for the block; the checkout's own package is what it loads."""
    paths = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    path = {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    other = mock.patch.object(
        fork_server, "child_command", lambda _, *given: child_command("tests.faults.forks", *given)
    )
    with other, mock.patch.dict(os.environ, path), fork_server.fork_server(folder / "server.log") as environment:
        (address,) = [environment[name] for name in fork_server_environment("")]
        below = psutil.Process().children()
        yield Server(address, next(process.pid for process in below if "tests.faults.forks" in process.cmdline()))


def runs(process: psutil.Process) -> bool:
    """Has it not ended? One that nobody has asked for yet has."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def words(process: psutil.Process) -> str:
    """Its command line; empty for one that has ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def until(condition, limit_s: float = 120.0, poll_s: float = 0.1) -> bool:
    """Wait for it; False where it did not come true in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True
