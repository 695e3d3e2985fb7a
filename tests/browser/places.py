"""Where pages are opened from, the browser that opens them, and a watch over whatever goes wrong in it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from kvrepro.runs.stand_in import stand_in_command

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_S = 120.0  # for what another process does on a busy machine


def find_chromium() -> str | None:
    """A Chromium or Chrome of this machine."""
    return next((path for name in BROWSERS if (path := shutil.which(name)) is not None), None)


def kvrepro(results: Path, *arguments: str) -> None:
    """Run a command of the package to its end.

    Raises:
        RuntimeError: it failed; the message has what it wrote.
    """
    environment = {**os.environ, "KVREPRO_RESULTS": str(results)}
    done = subprocess.run(
        stand_in_command("kvrepro", *arguments), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"kvrepro {' '.join(arguments)}: {done.stdout}{done.stderr}")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def plain_server(folder: Path) -> Iterator[str]:
    """Any web server, which knows nothing of the package; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@contextmanager
def process(command: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen]:
    """A process that is ended afterwards; what it writes goes to the log."""
    with log.open("w") as output:
        started = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def said(log: Path, pattern: str, started: subprocess.Popen) -> str:
    """The first group of the pattern, once the log has it.

    Raises:
        RuntimeError: the process ended, or did not say it in time.
    """
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        if found := re.search(pattern, log.read_text()):
            return found[1]
        if started.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"{' '.join(map(str, started.args))} did not say {pattern}: {log.read_text()}")


@contextmanager
def view_server(results: Path, log: Path) -> Iterator[str]:
    """`kvrepro view` of the results; gives its address."""
    command = stand_in_command("kvrepro", "view", "--no-browser", "--port", str(free_port()))
    with process(command, log, {**os.environ, "KVREPRO_RESULTS": str(results)}) as started:
        yield said(log, r"(http://127\.0\.0\.1:\d+/) shows ", started)


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return tried.getsockname()[1]


class Watch:
    """Errors on the console, errors of scripts, requests that failed, and requests that left the site.

    `expected` are patterns of what a test brings about on purpose; each has to come.
    """

    def __init__(self, context, site: str):
        self.site, self.found, self.expected = site, [], []
        context.on("console", self._said)
        context.on("weberror", lambda error: self.found.append(f"error of a script: {error.error}"))
        context.on("request", self._asked)
        context.on("requestfailed", self._failed)
        context.on("response", self._answered)

    def _said(self, message) -> None:
        if message.type == "error":
            self.found.append(f"console: {message.text}")

    def _asked(self, request) -> None:
        if not request.url.startswith((self.site, "data:", "blob:")):
            self.found.append(f"asked elsewhere: {request.url}")

    def _failed(self, request) -> None:
        # what a page no longer waits for when it is left
        if request.failure != "net::ERR_ABORTED":
            self.found.append(f"failed: {request.url}: {request.failure}")

    def _answered(self, response) -> None:
        if response.status >= 400:
            self.found.append(f"failed: {response.url}: {response.status}")

    def check(self) -> None:
        """Fail on what came unasked, and on what was expected and did not come."""
        patterns = [re.compile(pattern) for pattern in self.expected]
        unasked = [line for line in self.found if not any(p.search(line) for p in patterns)]
        assert not unasked, "\n".join(unasked)
        missing = [p.pattern for p in patterns if not any(p.search(line) for line in self.found)]
        assert not missing, f"did not come: {missing}"
