"""What an eviction of R-KV takes beside the cache: no n x n similarity may exist (docs/methods.md#redundancy)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# the cache and the arguments exist before the first reading; ru_maxrss only ever grows
MEASURE = """
import json, resource, sys, torch
torch.set_num_threads(1)
from transformers import LlamaConfig
from kvrepro.cache.slots import CompressedCache
from kvrepro.methods.table import create_method
from kvrepro.methods.views import NEVER, EvictionView
n, rows, heads, d, granularity = json.loads(sys.argv[1])
config = LlamaConfig(hidden_size=heads * 4 * d, num_hidden_layers=1, num_attention_heads=heads * 4,
                     num_key_value_heads=heads, head_dim=d)
def view(n):
    method = create_method("rkv", n - 128, window=8, evict_every=128, protocol="as_published")
    cache = CompressedCache(config, rows, n, method.granularity)
    method.prepare(cache)
    cache.kv.normal_()
    cache.query_ring.storage.normal_()
    cache.lengths, cache.seen = [n] * rows, [n] * rows
    cache.positions[:] = torch.arange(n)
    every = torch.arange(rows)
    return method, EvictionView(cache, every, n, every * 0 + 9, every * 0 + NEVER, every, every * 0)
def evict(n):
    method, seen = view(n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.inference_mode():
        [plan], _ = method.plans(seen)
        seen.cache.compact(plan)
    assert plan.slots.shape == (1, rows, heads, n - 128)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
evict(256)  # what torch loads on first use is not the eviction's
print(evict(n))
"""


def extra_mib(n: int, rows: int, heads: int, d: int) -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps([n, rows, heads, d, "head"])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return float(done.stdout)


def test_a_small_eviction_takes_far_less_than_the_similarity_would():
    """n = 2500, B = 2, H = 4: the similarity alone would be 191 MiB in float32, its mask and indices more."""
    assert extra_mib(2500, 2, 4, 32) < 2500**2 * 2 * 4 * 4 / 2**20 * 1.6


@pytest.mark.slow
def test_the_size_of_the_paper_stays_below_one_gigabyte():
    """n = 5000, B = 4, H = 8, d = 128; the published code holds 3 GiB for the similarity alone."""
    assert extra_mib(5000, 4, 8, 128) < 1000
