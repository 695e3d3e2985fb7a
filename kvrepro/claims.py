"""Claims: one process at a time does a thing, on one host or on a cluster.

A claim is a file that only one process can create and that its holder keeps touching, for clusters' file systems lack
`flock`. Where its holder's process can be looked for, that decides: one that lives holds it however silent it is, one
that has gone does not. Elsewhere it is taken over when it was watched for `LEASE_S` without a sign of life. filelock's
`SoftFileLease` is no help there: it takes over only where two names can be swapped in one step, which NFS cannot.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import KvreproError, RunError
from .holders import Holder

# a claim whose file has not changed for so long is anybody's; its holder changes the file once in BEAT_S
LEASE_S, BEAT_S = 60.0, 15.0
PATIENCE_S = 2.0  # how long a claim that is about to be given up is waited for
POLL_S = (0.02, 2.0)  # between two looks at a claim that is waited for: at first, at most


@dataclass(frozen=True)
class _Marker:
    """The file of a claim at one moment; it equals an earlier one where its holder has not touched it since."""

    content: bytes
    changed_ns: int

    @classmethod
    def at(cls, path: Path) -> _Marker | None:
        """None where there is none; opened each time, for only then does NFS ask its server."""
        try:
            with path.open("rb") as file:
                return cls(file.read(), os.fstat(file.fileno()).st_mtime_ns)
        except OSError as error:
            # on NFS one that was removed as it was read is stale
            if error.errno in (errno.ENOENT, errno.ESTALE):
                return None
            raise

    @property
    def holder(self) -> Holder | None:
        """None where it was cut as it was written, or is of a version whose locks were empty files."""
        try:
            return Holder.read(json.loads(self.content))
        except (ValueError, TypeError):
            return None

    def is_silent(self, folder: Path) -> bool:
        """True where a lease has passed by the clock of the folder's file server, which another host's may not be."""
        if 0 <= time.time() - self.changed_ns / 1e9 < LEASE_S:
            return False
        # a file made now has that clock's time; a folder that may not be written leaves this host's
        with contextlib.suppress(OSError), tempfile.TemporaryFile(dir=folder) as file:
            return os.fstat(file.fileno()).st_mtime_ns - self.changed_ns >= LEASE_S * 1e9
        return time.time() - self.changed_ns / 1e9 >= LEASE_S


class _Watch:
    """A claim of another process that is looked at again and again."""

    def __init__(self, path: Path):
        self.path = path
        self._first = self._seen = _Marker.at(path)
        self._since = time.monotonic()

    def look(self) -> _Marker | None:
        """Its file; None where nobody holds it any more, and then its file is gone."""
        marker, now = _Marker.at(self.path), time.monotonic()
        if marker is None:
            return None
        if marker != self._seen:
            self._seen, self._since = marker, now
        lives = marker.holder and marker.holder.lives
        if lives or (lives is None and now - self._since < LEASE_S):
            return marker
        _clear(self.path, marker)
        return None

    @property
    def is_alive(self) -> bool:
        """True where its holder has given a sign of life; one that was silent from the first may be dead."""
        if self._seen is None or (found := self._seen.holder) is None:
            return False
        return bool(found.lives) or self._seen != self._first or not self._seen.is_silent(self.path.parent)


@contextlib.contextmanager
def held(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the claim `path` inside the block; its file is gone afterwards.

    Where another process has taken it over nevertheless, from one that was stopped for longer than `LEASE_S` say, this
    one ends itself with SIGTERM as it notices: what it makes is made by the other.

    Args:
        what: what is done under it, for messages, such as "cell x/y".
        wait: wait for as long as another process holds it, and say so once on the error output.

    Raises:
        KvreproError: another process holds it; names the process.
        RunError: as the block ends: another has it now, for this process gave no sign of life for `LEASE_S`.
        OSError: the folder's file system does not let the file be made or read.
    """
    mine = Holder.here()
    path.parent.mkdir(parents=True, exist_ok=True)
    _take(path, mine, what, wait)
    _sweep(path)
    done = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, what, mine, done), daemon=True)
    beat.start()
    try:
        yield
        if not _is_of(path, mine):
            raise RunError(f"{what}: {_taken_over(path)}")
    finally:
        # a fork that leaves the block holds nothing
        if mine.is_this_process:
            done.set()
            # or it could find another's claim where this one was given back
            beat.join()
            _give_back(path, mine)


def holder(path: Path) -> Holder | None:
    """Who holds the claim: whose process lives, or where that cannot be told, who gave a sign of life within a lease.

    It is only looked at, and may lie in a folder that is read-only; there the clocks of hosts must agree to a lease.
    That nobody is named proves nothing where clocks differ: who must be sure waits until it is free.

    Raises:
        OSError: the file is there and cannot be read.
    """
    if (marker := _Marker.at(path)) is None or (found := marker.holder) is None:
        return None
    lives = found.lives
    return found if lives or (lives is None and not marker.is_silent(path.parent)) else None


def is_held(path: Path) -> bool:
    """True while some process holds the claim, see `holder`."""
    return holder(path) is not None


def wait_until_free(paths: Iterable[Path], what: str) -> None:
    """Wait until nobody holds one of these claims; files that dead processes left are removed.

    All are watched at once. Each holder is named once on the error output.

    Args:
        what: who waits, for messages, such as "cell x/y".

    Raises:
        OSError: a file is there and cannot be read or removed.
    """
    watches, told, pauses = [_Watch(path) for path in paths], set(), _pauses()
    while left := [(watch, marker) for watch in watches if (marker := watch.look()) is not None]:
        lines = {f"{what} waits for {m.holder or 'another process'}, which holds {w.path.name}" for w, m in left}
        for line in sorted(lines - told):
            print(line, file=sys.stderr, flush=True)
        told |= lines
        watches = [watch for watch, _ in left]
        time.sleep(next(pauses))


def _take(path: Path, mine: Holder, what: str, wait: bool) -> None:
    watch = _Watch(path)
    start, is_told, pauses = time.monotonic(), False, _pauses()
    while (marker := watch.look()) is not None or not _create(path, mine):
        if marker is None:
            continue
        name = marker.holder or "which has not written its name yet"
        if time.monotonic() - start >= PATIENCE_S:
            if not wait and watch.is_alive:
                raise KvreproError(f"{what} is being run by another process, {name}: wait for it or stop it")
            if not is_told:
                print(f"{what} waits for another process, {name}", file=sys.stderr, flush=True)
            is_told = True
        time.sleep(next(pauses))


def _pauses() -> Iterator[float]:
    pause, longest = POLL_S
    while True:
        yield pause
        pause = min(2 * pause, longest)


def _create(path: Path, mine: Holder) -> bool:
    """Make the claim's file with its holder's name in it, in one step where the file system has links."""
    beside = path.with_name(f"{path.name}.{mine.token}")
    try:
        with beside.open("w") as file:
            file.write(json.dumps(asdict(mine)))
        # a server's answer to the first of two equal requests may be lost: then the second finds it made
        return _link(beside, path) or ((found := _Marker.at(path)) is not None and found.holder == mine)
    finally:
        beside.unlink(missing_ok=True)


def _link(beside: Path, path: Path) -> bool:
    """Give a file that is whole the claim's name as well; False where another file has it."""
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError:
        # there are no links: a file that only one can make, without a name in it for a moment
        content = beside.read_bytes()
        try:
            with path.open("xb") as file:
                file.write(content)
        except FileExistsError:
            return False
    return True


def _clear(path: Path, judged: _Marker) -> None:
    """Take the file of a dead claim away; of those that try at once, one does."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        os.replace(path, aside)
    except FileNotFoundError:
        return
    try:
        if _Marker.at(aside) != judged:
            # made or touched since it was judged: it goes back, unless a third claim is there; then `held` tells
            _link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove what was left beside the claim by processes that were killed as they made or cleared it."""
    # a claim that has just been made has the file server's time
    with contextlib.suppress(OSError):
        now = path.stat().st_mtime
        for left in path.parent.glob(f"{glob.escape(path.name)}.*"):
            if re.fullmatch("[0-9a-f]{32}", left.suffix[1:]) and now - left.stat().st_ctime >= LEASE_S:
                left.unlink(missing_ok=True)


def _is_of(path: Path, mine: Holder) -> bool:
    return (marker := _settled(path)) is not None and marker.holder == mine


def _settled(path: Path) -> _Marker | None:
    # twice, for `_clear` takes the file of a live claim away for a moment where it was made just then
    if (marker := _Marker.at(path)) is None:
        time.sleep(POLL_S[0])
        marker = _Marker.at(path)
    return marker


def _give_back(path: Path, mine: Holder) -> None:
    try:
        if _is_of(path, mine):
            path.unlink(missing_ok=True)
    except OSError as error:
        # what ended the block says more; the claim ends with this process
        print(f"{path} cannot be given back ({error.strerror}): remove it", file=sys.stderr, flush=True)


def _beat(path: Path, what: str, mine: Holder, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        # a file server that does not answer for a while is no reason to end
        with contextlib.suppress(OSError):
            if (marker := _settled(path)) is None:
                _create(path, mine)
            elif marker.holder == mine:
                os.utime(path)
            elif marker.holder is not None:
                break
    else:
        return
    with contextlib.suppress(OSError):
        print(f"{what}: {_taken_over(path)}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _taken_over(path: Path) -> str:
    return (
        f"{holder(path) or 'another process'} took over from this one, which gave no sign of life for {LEASE_S:.0f} s "
        "(was it stopped?); nothing is lost, run the command again"
    )
