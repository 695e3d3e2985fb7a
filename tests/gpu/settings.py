"""What the tests of this folder need."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from .pretend_cuda import unavailable

_REASON = unavailable() or (None if find_spec("triton") else "triton is not installed")
needs_pretend_cuda = pytest.mark.skipif(_REASON is not None, reason=_REASON or "")
