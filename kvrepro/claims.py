"""Claims: one process at a time does a thing, on one host or on a cluster.

A claim is a file that only one process can create and that its holder keeps touching, for clusters' file systems lack
`flock`. It is taken over at once where its holder's process has gone from this host, and `LEASE_S` after its last sign
of life where that cannot be seen. filelock's `SoftFileLease` is no help there: it takes over only where two names can
be swapped in one step, which NFS cannot, and never what was killed before it wrote its name.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from .errors import KvreproError, RunError
from .paths import scheduler_job

# a claim whose file has not changed for so long is anybody's; its holder changes the file once in BEAT_S
LEASE_S, BEAT_S = 60.0, 15.0
PATIENCE_S = 2.0  # how long a claim that is about to be given up is waited for
POLL_S = (0.02, 2.0)  # between two looks at a claim that is waited for: at first, at most


@dataclass(frozen=True)
class Holder:
    """Who holds a claim: process, host, the scheduler's job id (None without one), and since when (ISO 8601, UTC).

    `place` tells apart hosts, their starts and containers: a pid means something only in the place that it was given.
    """

    pid: int
    host: str
    job: str | None
    since: str
    place: str
    token: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}" + (f", SLURM job {self.job}" if self.job else "")

    @property
    def is_this_process(self) -> bool:
        """True where the process that looks has taken it."""
        return self.pid == os.getpid() and self.place == _place()

    @property
    def is_gone(self) -> bool:
        """True where its process can be looked for from here, and is not there or has only its exit code left."""
        import psutil

        if self.place != _place():
            return False
        try:
            return not psutil.pid_exists(self.pid) or psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            # there, and hidden from this user
            return False


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
        except FileNotFoundError:
            return None

    @property
    def holder(self) -> Holder | None:
        """None where it was cut as it was written, or is of a version whose locks were empty files."""
        try:
            return Holder(**json.loads(self.content))
        except (ValueError, TypeError):
            return None

    @property
    def is_silent(self) -> bool:
        """True where this host's clock says that a lease has passed; a file server may have another one."""
        return time.time() - self.changed_ns / 1e9 >= LEASE_S

    def is_left(self, watched_s: float) -> bool:
        """True where nobody holds it: its process has gone, or it was watched for long enough without a change."""
        if self.holder is None:
            # a name is written at once or never
            return watched_s >= PATIENCE_S
        return watched_s >= LEASE_S or self.holder.is_gone


@contextlib.contextmanager
def held(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the claim `path` inside the block; its file is gone afterwards.

    Args:
        what: what is done under it, for messages, such as "cell x/y".
        wait: wait for as long as another process holds it, and say so once on the error output.

    Raises:
        KvreproError: another process holds it; names the process.
        RunError: as the block ends: another has it now, for this process gave no sign of life for `LEASE_S`.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    mine = Holder(os.getpid(), platform.node(), scheduler_job(), now, _place(), uuid.uuid4().hex)
    path.parent.mkdir(parents=True, exist_ok=True)
    _take(path, mine, what, wait)
    done = threading.Event()
    threading.Thread(target=_beat, args=(path, mine, done), daemon=True).start()
    try:
        yield
        if not _is_of(path, mine):
            raise RunError(
                f"{what}: {holder(path) or 'another process'} took over from this one, which gave no sign of life for "
                f"{LEASE_S:.0f} s (was it stopped?); nothing is lost, run the command again"
            )
    finally:
        done.set()
        # a fork that leaves the block holds nothing
        if mine.is_this_process and _is_of(path, mine):
            path.unlink(missing_ok=True)


def holder(path: Path) -> Holder | None:
    """Who holds the claim and gave a sign of life within a lease; only reads, so a folder may be read-only."""
    marker = _Marker.at(path)
    return None if marker is None or marker.is_silent or marker.is_left(0) else marker.holder


def is_held(path: Path) -> bool:
    """True while some process holds the claim."""
    return holder(path) is not None


def _take(path: Path, mine: Holder, what: str, wait: bool) -> None:
    first = seen = _Marker.at(path)
    start = since = time.monotonic()
    pause, is_told = POLL_S[0], False
    while not _create(path, mine):
        if (marker := _Marker.at(path)) is None:
            continue
        now = time.monotonic()
        if marker != seen:
            seen, since = marker, now
        if marker.is_left(now - since):
            _clear(path, marker)
            continue
        name = marker.holder or "which has not written its name yet"
        # one that was silent and stays so may be dead: only watching it for a lease tells
        is_alive = marker.holder is not None and (marker != first or not marker.is_silent)
        if now - start >= PATIENCE_S:
            if is_alive and not wait:
                raise KvreproError(f"{what} is being run by another process, {name}: wait for it or stop it")
            if not is_told:
                print(f"{what} waits for another process, {name}", file=sys.stderr, flush=True)
            is_told = True
        time.sleep(pause)
        pause = min(2 * pause, POLL_S[1])


def _create(path: Path, mine: Holder) -> bool:
    try:
        file = path.open("x")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(json.dumps(asdict(mine)))
    except BaseException:
        path.unlink(missing_ok=True)
        raise
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
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
    finally:
        aside.unlink()


def _is_of(path: Path, mine: Holder) -> bool:
    # twice, for `_clear` takes the file of a live claim away for a moment where it was made just then
    for _ in range(2):
        if (marker := _Marker.at(path)) is not None:
            return marker.holder == mine
        time.sleep(POLL_S[0])
    return False


def _beat(path: Path, mine: Holder, done: threading.Event) -> None:
    while not done.wait(BEAT_S):
        # a file server that does not answer for a while is no reason to end
        with contextlib.suppress(OSError):
            if _is_of(path, mine):
                os.utime(path)


@cache
def _place() -> str:
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
