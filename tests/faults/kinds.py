"""Every kind of fault, by name."""

from __future__ import annotations

from . import damage, stops, surroundings

KINDS = {**stops.KINDS, **damage.KINDS, **surroundings.KINDS}
