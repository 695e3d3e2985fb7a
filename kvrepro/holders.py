"""Who holds a claim: a process, and whether it still runs."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from .paths import scheduler_job


@dataclass(frozen=True)
class Holder:
    """Who holds a claim: process, host, the scheduler's job id (None without one), and since when (ISO 8601, UTC).

    `place` tells apart hosts, their starts and containers: a pid means something only in the place that it was given.
    `born` tells the process from a later one of its pid, see `_start`; None where the system did not say.
    """

    pid: int
    host: str
    job: str | None
    since: str
    place: str
    token: str
    born: float | None = None

    @classmethod
    def here(cls) -> Holder:
        """This process, from now on."""
        now, pid, born = datetime.now(UTC).isoformat(timespec="seconds"), os.getpid(), None
        with contextlib.suppress(OSError):
            born = _start(pid)
        return cls(pid, platform.node(), scheduler_job(), now, place(), uuid.uuid4().hex, born)

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Holder:
        """From what a version of the package wrote; later ones may say more.

        Raises:
            TypeError: it says less, or is no mapping.
        """
        return cls(**{field.name: found[field.name] for field in fields(cls) if field.name in found})

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}" + (f", SLURM job {self.job}" if self.job else "")

    @property
    def is_this_process(self) -> bool:
        """True where the process that looks has taken it."""
        return self.pid == os.getpid() and self.place == place()

    @property
    def lives(self) -> bool | None:
        """Whether its process runs, stopped or not; None where that cannot be told from here."""
        if self.place != place():
            return None
        try:
            start = _start(self.pid)
        except ProcessLookupError:
            return False
        except PermissionError:
            return None
        return None if self.born is None else start == self.born


def _start(pid: int) -> float:
    """When a process of this host started, by a clock that nobody sets where the system has one.

    Raises:
        ProcessLookupError: there is none, or only its exit code is left.
        PermissionError: there is one, and it is hidden from this user.
    """
    if sys.platform == "linux":
        # not by psutil: it takes a hidden process for none, and its times move as the host's clock is set
        try:
            text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError as error:
            os.kill(pid, 0)
            raise PermissionError from error
        state, *words = text.rpartition(")")[2].split()
        if state in "ZX":
            raise ProcessLookupError
        return float(words[18])
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.create_time()
    except psutil.NoSuchProcess as error:
        raise ProcessLookupError from error
    except psutil.AccessDenied as error:
        raise PermissionError from error
    raise ProcessLookupError


@cache
def place() -> str:
    """Where this process' pid means something: its host, the host's start, and the container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)
