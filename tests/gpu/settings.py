"""What the tests of this folder need, and processes in which Triton's interpreter runs."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from kvrepro.paths import PACKAGE

from .pretend_cuda import unavailable


def _version(package: str) -> tuple[int, ...]:
    """Major and minor; nothing where the package is not installed."""
    try:
        return tuple(map(int, version(package).split(".")[:2]))
    except PackageNotFoundError:
        return ()


_TRITON = _version("triton")
_NO_TRITON = None if _TRITON else "triton is not installed"
_NO_PRETENCE = unavailable() or _NO_TRITON
# `int` of an array with one value, which numpy 2.4 refuses
_NO_INTERPRETER = _NO_TRITON
if _TRITON and _TRITON < (3, 9) and _version("numpy") >= (2, 4):
    _NO_INTERPRETER = "the interpreter of this Triton needs a numpy below 2.4"

needs_pretend_cuda = pytest.mark.skipif(_NO_PRETENCE is not None, reason=_NO_PRETENCE or "")
needs_interpreter = pytest.mark.skipif(_NO_INTERPRETER is not None, reason=_NO_INTERPRETER or "")


@cache
def interpreted(module: str, *arguments: str) -> str:
    """What `python -m tests.gpu.MODULE` prints under `TRITON_INTERPRET=1`.

    Run once per test run, whichever worker comes first; a process of its own, since the variable must be set before
    Triton is imported, and the other tests must not see it.
    """
    # a worker's parent is the process that started the run; alone, this process is the run
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone-{os.getpid()}")
    path = Path(tempfile.gettempdir()) / f"kvrepro-{module}-{run}.json"
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
            command = [sys.executable, "-W", "ignore", "-m", f"tests.gpu.{module}", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=PACKAGE.parent)
            assert done.returncode == 0, f"{module} did not run:\n{done.stderr[-3000:]}"
            path.write_text(done.stdout)
    return path.read_text()
