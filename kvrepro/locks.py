"""Locks that die with their process, so that a killed run never blocks the next."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import KvreproError

# whoever only looks holds the lock for a moment, and a run waits that long
PATIENCE_S = 2.0


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Hold the lock `path` inside the block; the file is gone afterwards.

    Args:
        what: what is done under the lock, for the message, such as "cell x/y".

    Raises:
        KvreproError: another process holds it; names the process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=PATIENCE_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise KvreproError(f"{what} is being run by another process, {holder(path)}: wait for it or stop it") from error
    owner = _owner_file(path)
    try:
        owner.write_text(f"{os.getpid()} on {platform.node()}")
        yield
    finally:
        owner.unlink(missing_ok=True)
        # gone while it is held; where an open file cannot be removed it stays, which does no harm
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def is_held(path: Path) -> bool:
    """True while some process holds the lock; looking does not make that process fail."""
    if not path.is_file():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        # somebody else's folder, or one that can only be read: what the holder wrote is all that can be known
        return _owner_file(path).is_file()


def holder(path: Path) -> str:
    """The holder as it wrote itself down: process id and machine."""
    try:
        return f"pid {_owner_file(path).read_text()}"
    except FileNotFoundError:
        return "which has not written its pid yet"


def _owner_file(path: Path) -> Path:
    # beside the lock: on Windows a locked file cannot be read
    return path.with_name(f"{path.name}.pid")
