"""What tests of claims share: a place for one, and a lease that has passed within a test."""

from __future__ import annotations

import pytest

from kvrepro import claims


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "lock"


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(claims, "LEASE_S", 0.8)
    monkeypatch.setattr(claims, "BEAT_S", 0.1)
    monkeypatch.setattr(claims, "PATIENCE_S", 0.2)
