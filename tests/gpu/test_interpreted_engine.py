"""The kernels themselves, interpreted, inside whole runs on the pretend device."""

from __future__ import annotations

import json

import pytest

from .settings import interpreted, needs_interpreter, needs_pretend_cuda

pytestmark = [needs_pretend_cuda, needs_interpreter]

STEP = {"append_kernel", "split_kernel", "chunk_kernel", "draw_kernel"}
METHODS = {
    "h2o": {"mass_kernel", "compact_kernel"},
    "rkv": {"normaliser_kernel", "score_kernel", "norm_kernel", "latest_kernel", "column_kernel", "compact_kernel"},
}


@pytest.mark.parametrize("method", METHODS)
def test_replies_are_a_cpus_with_every_kernel_interpreted(method):
    found = json.loads(interpreted("interpreted_engine", *METHODS))[method]
    assert found["equal"] and found["captured"] and found["warnings"] == []
    assert found["evictions"] >= 2
    assert set(found["launched"]) >= STEP | METHODS[method]
