"""Reproduce, check and extend results on KV-cache compression for reasoning models.

Public names are imported when they are first used, so that grading, drawing and the command line start
without torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

if find_spec(f"{__name__}.kernels") is None:
    # a checkout that is not installed (a GPU machine without network): the kernels lie beside the package
    __path__.append(str(Path(__file__).parents[1]))

_PUBLIC = {
    "generate": "engine.generate",
    "CellConfig": "runs.config",
    "CompressedCache": "cache.slots",
    "Engine": "engine.engine",
    "EvictionMethod": "methods.base",
    "EvictionView": "methods.views",
    "Schedule": "methods.budgets",
    "create_method": "methods.table",
    "load_model": "models.loading",
    "model_entry": "models.table",
    "run_cell": "runs.runner",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kvrepro' has no attribute {name!r}; public names: {', '.join(_PUBLIC)}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
