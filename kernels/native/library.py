"""Compile the C++ sources of this folder once per machine and load them.

A compiler with OpenMP is all it takes (Triton asks for one as well). The library is built for the processor at hand
and kept under a name that changes with sources, flags, compiler and processor, so a stale one is never loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from filelock import FileLock, Timeout

SOURCES = Path(__file__).resolve().parent
MAIN = "decode_step.cpp"
COMPILERS = ("c++", "g++", "clang++")
# products and sums may fuse, but nothing may be reordered: a row's bits must not depend on its neighbours
FLAGS = ("-std=c++17", "-O3", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
NATIVE = "native"
TIMEOUT_S = 300
PATIENCE_S = 5.0  # how long another process that compiles is waited for without a word


class NativeUnavailableError(Exception):
    """The library cannot be had here; the message says why."""


def ensure_library(folder: Path, processor: str = NATIVE) -> Path:
    """The compiled decode step, built into `folder` where it is not there yet (about eight seconds), which is said.

    Processes that need it at once wait for the first of them.

    Args:
        folder: where libraries are kept.
        processor: what the compiler's `-march` should be; the machine's own by default.

    Raises:
        NativeUnavailableError: no compiler, or it failed, or the folder cannot be written.
    """
    command = [*find_compiler(), *FLAGS, f"-march={processor}"]
    target = folder / f"decode_step-{fingerprint(command)}.so"
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _alone(target):
                if not target.is_file():
                    _build(command, target)
        except OSError as error:
            raise NativeUnavailableError(f"cannot write {target}: {error}") from error
    return target


@cache
def load_library(folder: Path, processor: str = NATIVE) -> ctypes.CDLL:
    """As `ensure_library`, and loaded into this process.

    Raises:
        NativeUnavailableError: as there, or the file does not load.
    """
    target = ensure_library(folder, processor)
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise NativeUnavailableError(f"{target} does not load ({error}); delete it to build it anew") from error


def find_compiler() -> list[str]:
    """The command of `CXX`, or the first usual compiler on the path.

    Raises:
        NativeUnavailableError: there is none.
    """
    given = shlex.split(os.environ.get("CXX", ""))
    if given:
        return given
    for name in COMPILERS:
        if shutil.which(name):
            return [name]
    raise NativeUnavailableError(f"no C++ compiler found ({', '.join(COMPILERS)}, or name one in CXX)")


def fingerprint(command: list[str]) -> str:
    """Changes with sources, flags, compiler and processor."""
    digest = hashlib.sha256(" ".join((*command, platform.machine(), _processor())).encode())
    digest.update(_run([*command, "--version"]).encode())
    for path in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _processor() -> str:
    """Model and features of the processor: what `-march=native` looks at."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features")))


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Only one process at a time builds `target`; where that cannot be had, several do, which harms nothing."""
    lock, builder = FileLock(target.with_suffix(".lock")), target.with_suffix(".builder")
    try:
        try:
            lock.acquire(timeout=PATIENCE_S)
        except Timeout:
            with contextlib.suppress(OSError):
                _say(f"{builder.read_text()} compiles the decode step for this processor: waiting for it")
            lock.acquire(timeout=TIMEOUT_S)
    except (Timeout, NotImplementedError):
        # it hangs, or the disk knows no locks
        yield
        return
    try:
        builder.write_text(f"process {os.getpid()} on {platform.node()}")
        yield
    finally:
        builder.unlink(missing_ok=True)
        lock.release()


def _build(command: list[str], target: Path) -> None:
    _say("compiling the decode step for this processor, once ...")
    began = time.monotonic()
    # into a folder of its own: several may build at once after all, and the last rename wins
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        made = Path(name) / target.name
        _run([*command, str(SOURCES / MAIN), "-o", str(made)])
        made.replace(target)
    _say(f"compiled the decode step in {time.monotonic() - began:.0f} s; it is kept in {target.parent}")


def _say(text: str) -> None:
    """To the error output; in a notebook, which shows that in red, to the other one."""
    print(text, file=sys.stdout if type(sys.stderr).__module__.startswith("ipykernel") else sys.stderr, flush=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NativeUnavailableError(f"{command[0]}: {error}") from error
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[-300:])
        raise NativeUnavailableError(f"{command[0]} ended with code {done.returncode}: {complaint}")
    return done.stdout
