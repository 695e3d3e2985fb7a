"""The reference: nothing is evicted."""

from __future__ import annotations

from .base import EvictionMethod


class FullMethod(EvictionMethod):
    """The full KV cache, on the same engine as every other method."""

    name = "full"
    source = "reference"
