"""Counter-based noise: a number depends on what it is for, never on what was drawn before it.

Rows of a batch, methods and resumed runs therefore share the same noise whenever they share the key
(seed, problem, sample, step). Integer arithmetic only, so CPU and GPU agree bit by bit.
"""

from __future__ import annotations

import hashlib

from ..kernels.reference.sampling import gumbel, mix, uniform

__all__ = ["EVICTION", "SAMPLING", "gumbel", "mix", "row_key", "uniform"]

# streams never share a key: what an eviction draws must not move what sampling draws
SAMPLING, EVICTION = 1, 2


def row_key(seed: int, problem_id: str, sample_id: int, stream: int) -> int:
    """Signed 64-bit key of one sample's noise stream."""
    text = f"{seed}/{problem_id}/{sample_id}/{stream}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "little", signed=True)
