"""Which path runs, and that machines without Triton or a GPU neither need nor load it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from kvrepro.kernels import launch

WITHOUT_TRITON = """
import sys
import torch
from kvrepro.kernels import aot, append_kv, compact_slots, decode_attention, key_redundancy, sample, window_scores
from kvrepro.kernels import launch, skinny_linear
x = torch.randn(1, 2, 3, 8)
decode_attention.decode_attention(x[:, :, 0], x, x, None, 1.0)
print([m for m in sys.modules if m == "triton" or m.startswith("kvrepro.kernels.device")])
# what was imported above never asked for Triton; now it cannot be found either
sys.modules["triton"] = None
launch.have_triton.cache_clear()
key_redundancy.key_redundancy(x)
try:
    key_redundancy.key_redundancy(x, impl="triton")
except ValueError as error:
    print(error)
"""


def test_a_cpu_neither_loads_nor_needs_triton():
    done = subprocess.run([sys.executable, "-c", WITHOUT_TRITON], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded, message = done.stdout.splitlines()
    assert loaded == "[]"
    assert 'impl="triton" cannot run: triton is not installed (pip install triton)' in message


def test_a_gpu_falls_back_with_a_message(monkeypatch):
    class OnGpu:
        is_cuda = True

    launch.say_once.cache_clear()
    with pytest.warns(RuntimeWarning, match="head size 512 is outside 1 to 256; the slower torch reference"):
        assert not launch.choose("decode_attention", "auto", OnGpu(), launch.refuse_size(512))
    monkeypatch.setattr(launch, "have_triton", lambda: False)
    with pytest.warns(RuntimeWarning, match="triton is not installed"):
        assert not launch.choose("decode_attention", "auto", OnGpu())


def test_poisoned_storage_shows_values_that_were_never_written():
    from kvrepro.kernels.checks.common import poisoned_storage, relative_error

    with poisoned_storage():
        assert torch.empty(3).isnan().all() and torch.empty_like(torch.zeros(2)).isnan().all()
        assert (torch.empty(2, dtype=torch.int64) == -7).all()
    assert relative_error(torch.tensor([1.0, torch.nan]), torch.ones(2)) == float("inf")
