"""The reference: nothing is evicted."""

from __future__ import annotations

from dataclasses import dataclass

from .base import EvictionMethod


@dataclass(frozen=True)
class FullMethod(EvictionMethod):
    """The full KV cache, on the same engine as every other method."""

    name = "full"
    source = "reference"
