"""Counter-based noise: a number depends on what it is for, never on what was drawn before it.

Rows of a batch, methods and resumed runs therefore share the same noise whenever they share the key
(seed, problem, sample, step). Integer arithmetic only, so CPU and GPU agree bit by bit.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

# streams never share a key: what an eviction draws must not move what sampling draws
SAMPLING, EVICTION = 1, 2

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def row_key(seed: int, problem_id: str, sample_id: int, stream: int) -> int:
    """Signed 64-bit key of one sample's noise stream."""
    text = f"{seed}/{problem_id}/{sample_id}/{stream}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little", signed=True)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(keys: Tensor, counters: Tensor) -> Tensor:
    """Hash int64 `keys` with int64 `counters` (broadcast) into int64, by the SplitMix64 finaliser."""
    x = keys + (counters + 1) * _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def uniform(keys: Tensor, counters: Tensor) -> Tensor:
    """Uniform float32 strictly inside (0, 1), of the broadcast shape of `keys` and `counters` (int64)."""
    # 23 bits and a half: exact in float32, never 0 or 1
    return (_shift_right(mix(keys, counters), 41).float() + 0.5) * 2.0**-23


def gumbel(keys: Tensor, counters: Tensor) -> Tensor:
    """Standard Gumbel noise, float32; `argmax(log p + gumbel)` samples from `p`."""
    return -torch.log(-torch.log(uniform(keys, counters)))
