"""The kernels themselves, interpreted, inside whole runs on the pretend device."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kvrepro.paths import PACKAGE

from .settings import needs_pretend_cuda

pytestmark = [needs_pretend_cuda, pytest.mark.slow]

STEP = {"append_kernel", "split_kernel", "chunk_kernel", "draw_kernel"}
METHODS = {
    "h2o": {"mass_kernel", "compact_kernel"},
    "rkv": {"normaliser_kernel", "score_kernel", "norm_kernel", "latest_kernel", "column_kernel", "compact_kernel"},
}


@pytest.fixture(scope="module")
def reports() -> dict[str, dict]:
    """All methods in one process: most of its time is its start."""
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-m", "tests.gpu.interpreted_engine", *METHODS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("method", METHODS)
def test_replies_are_a_cpus_with_every_kernel_interpreted(reports, method):
    found = reports[method]
    assert found["equal"] and found["captured"] and found["warnings"] == []
    assert found["evictions"] >= 2
    assert set(found["launched"]) >= STEP | METHODS[method]
