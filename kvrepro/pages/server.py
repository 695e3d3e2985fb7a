"""Results over HTTP, to this machine's own browsers only; pictures of replies are made when a page asks for one.

Whatever else runs in those browsers must not read results or set work going: hence the checks of `Host` (a foreign name
may be pointed at this machine) and of `Sec-Fetch-Site`. Files are served from inside the results only, hidden ones and
listings never.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from collections import OrderedDict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from socketserver import TCPServer
from typing import BinaryIO
from urllib.parse import quote, unquote

from ..errors import KvreproError
from ..figures.reply_pictures import PICTURES, PictureMaker, cell_picture, picture_script, reason
from ..files import write_atomic
from ..runs.folder import MANIFEST

ADDRESS, FIRST_PORT, PORTS_TRIED = "127.0.0.1", 8421, 20
INDEX = "index.html"
# in a name, what leads elsewhere; a colon only on Windows, elsewhere models are called so
_REFUSED = set("\\\0/:" if os.name == "nt" else "\\\0/")
PICTURES_IN_MEMORY = 64  # of results that cannot be written to
_TEXT = "; charset=utf-8"
_KINDS = {
    ".html": f"text/html{_TEXT}",
    ".js": f"text/javascript{_TEXT}",
    ".css": f"text/css{_TEXT}",
    ".csv": f"text/csv{_TEXT}",
    **dict.fromkeys((".jsonl", ".log", ".txt", ".md", ".yaml"), f"text/plain{_TEXT}"),
    ".json": "application/json",
    ".ipynb": "application/x-ipynb+json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'self' data:; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
}


class ResultsServer(ThreadingHTTPServer):
    """Serves one folder of results on the loopback address.

    Args:
        root: the results.
        port: to listen at; 0 takes any free one.
    """

    daemon_threads = True
    request_queue_size = 128  # a page may ask for many pictures at once

    def __init__(self, root: Path, port: int):
        super().__init__((ADDRESS, port), _Handler)
        self.root = root.resolve()
        self.hosts = {f"{name}:{self.server_port}" for name in (ADDRESS, "localhost", "[::1]")}
        if self.server_port == 80:
            self.hosts |= {name.rpartition(":")[0] for name in self.hosts}
        self._maker, self._making = PictureMaker(), threading.Lock()
        self._in_memory: OrderedDict[Path, str] = OrderedDict()

    @classmethod
    def at(cls, root: Path, port: int | None = None) -> ResultsServer:
        """A server at this port, or at the first free one of `PORTS_TRIED`.

        Raises:
            KvreproError: the port, or every one of those, is in use or not allowed.
        """
        for tried in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED) if port is None else [port]:
            try:
                return cls(root, tried)
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                reason = error.strerror
        if port is None:
            raise KvreproError(f"ports {FIRST_PORT} to {tried} are all in use; give a free one with --port")
        raise KvreproError(f"--port={port}: {reason}; give another one, or leave it out for the first free one")

    def server_bind(self) -> None:
        """Bind without asking a name server what this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]

    @property
    def url(self) -> str:
        """Where the results begin."""
        return f"http://{ADDRESS}:{self.server_port}/"

    def found(self, parts: list[str]) -> Path | None:
        """The file or folder of a path below the results; None for what is hidden, lies elsewhere or does not exist."""
        if any(part.startswith(".") or set(part) & _REFUSED for part in parts):
            return None
        try:
            place = self.root.joinpath(*parts).resolve()
            return place if place.is_relative_to(self.root) and place.exists() else None
        except (OSError, RuntimeError):
            # a name that is too long, or links that lead in a circle
            return None

    def picture(self, parts: list[str]) -> str | None:
        """A picture file that is not there, made now and kept; None for what is no picture of a finished cell.

        Whoever asked may be gone when it is ready: the next one who asks finds it.
        """
        *cell, folder, name = ["", "", *parts]
        place = self.found([part for part in cell if part])
        if folder != PICTURES or place is None or not (place / MANIFEST).is_file():
            return None
        target = place / PICTURES / name
        # one after the other: each takes all cores, and models are large
        with self._making:
            if target.is_file():
                return target.read_text()
            if target in self._in_memory:
                return self._in_memory[target]
            made = cell_picture(place, name, self._maker)
            if made is not None:
                self._keep(target, made)
            return made

    def _keep(self, target: Path, text: str) -> None:
        try:
            target.parent.mkdir(exist_ok=True)
            if not target.parent.resolve().is_relative_to(self.root):
                raise OSError(f"{target.parent} leads out of the results")
            write_atomic(target, text)
        except OSError:
            # read-only results are as good to look at; the picture is made once per server
            self._in_memory[target] = text
            if len(self._in_memory) > PICTURES_IN_MEMORY:
                self._in_memory.popitem(last=False)


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of files; every other method is refused by the base class."""

    server: ResultsServer
    timeout = 60  # seconds that a browser may take over a request

    def do_HEAD(self) -> None:
        """As GET, without the content; no picture is made for it."""
        self.do_GET()

    def do_GET(self) -> None:
        """One file of the results, or a line that says why not."""
        try:
            self._answer()
        except ConnectionError:
            # the browser went on to another page
            self.close_connection = True

    def _answer(self) -> None:
        if (host := self.headers.get("Host", "")).lower() not in self.server.hosts:
            return self._say(
                HTTPStatus.FORBIDDEN, f"asked for as {host!r}, served at {self.server.url}: forward equal port numbers"
            )
        path = unquote(self.path.partition("?")[0])
        parts = [part for part in path.split("/") if part]
        came_from, mode = (self.headers.get(f"Sec-Fetch-{name}", "") for name in ("Site", "Mode"))
        # a link from elsewhere is followed, but sets no work going
        is_link = mode == "navigate" and PICTURES not in parts
        if came_from in ("cross-site", "same-site") and not is_link:
            return self._say(HTTPStatus.FORBIDDEN, "asked for by a page of another site")
        place = self.server.found(parts)
        if place is not None and place.is_dir():
            if not path.endswith("/"):
                return self._say(HTTPStatus.MOVED_PERMANENTLY, "", Location=quote(f"/{'/'.join(parts)}/"))
            place = self.server.found([*parts, INDEX])
        if place is not None and place.is_file():
            with place.open("rb") as file:
                return self._send(HTTPStatus.OK, place.suffix, place.stat().st_size, file)
        if self.command == "GET" and len(parts) > 2 and parts[-2] == PICTURES:
            return self._send_picture(parts)
        hint = f": `kvrepro summary {parts[0]}` makes its page" if len(parts) == 1 and path.endswith("/") else ""
        return self._say(HTTPStatus.NOT_FOUND, f"nothing here{hint}")

    def _send_picture(self, parts: list[str]) -> None:
        try:
            text = self.server.picture(parts)
        except Exception as error:
            # a method of the user's own may raise anything
            line = reason(error)
            print(f"kvrepro view: {'/'.join(parts)}: {line}", file=sys.stderr)
            # a script that fails to load cannot say why
            text = picture_script("/".join(parts[1:-2]), (parts[-1], 0), {"error": f"Not drawn: {line}"})
        if text is None:
            return self._say(HTTPStatus.NOT_FOUND, "no reply of a finished cell has this picture")
        content = text.encode()
        return self._send(HTTPStatus.OK, ".js", len(content), BytesIO(content))

    def _say(self, status: HTTPStatus, line: str, **headers: str) -> None:
        content = f"{line}\n".encode()
        self._send(status, ".txt", len(content), BytesIO(content), **headers)

    def _send(self, status: HTTPStatus, suffix: str, size: int, content: BinaryIO, **headers: str) -> None:
        self.send_response(status)
        kind = _KINDS.get(suffix.lower(), "application/octet-stream")
        for name, value in {"Content-Type": kind, "Content-Length": str(size), **_HEADERS, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            shutil.copyfileobj(content, self.wfile)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a page is a hundred requests."""
