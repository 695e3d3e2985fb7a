"""Runs the kernels' cases in Triton's interpreter, in a process of its own.

`TRITON_INTERPRET` must be set before Triton is imported and holds for the whole process, so the other tests of this
run (which compile for real targets) must not see it.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from kvrepro.kernels.checks.common import Result, case_name

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")


def case_ids(stem: str) -> list[str]:
    """Names of a kernel's cases."""
    return [case_name(c) for c in import_module(f"kvrepro.kernels.checks.{stem}").CASES]


@cache
def interpreted() -> dict[tuple[str, str], Result]:
    """Results of all kernels by (kernel, case); computed once per test run, whichever worker comes first."""
    # a worker's parent is the process that started the run; alone, this process is the run
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"alone-{os.getpid()}")
    path = Path(tempfile.gettempdir()) / f"kvrepro-interpreter-{run}.json"
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_file():
            path.write_text(_run_all())
    results = [Result(**{k: v for k, v in row.items() if k != "ok"}) for row in json.loads(path.read_text())]
    return {(r.stem, r.case): r for r in results}


def _run_all() -> str:
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-m", "kvrepro.kernels.checks"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.stdout.startswith("["), f"the checks did not run:\n{done.stdout[-500:]}{done.stderr[-3000:]}"
    return done.stdout


def assert_case(stem: str, name: str) -> None:
    """One case ran and its errors are within the tolerance of its dtype."""
    result = interpreted()[stem, name]
    assert result.ok, f"{name}: errors {result.errors}, limit {result.limit} {result.failure}"
