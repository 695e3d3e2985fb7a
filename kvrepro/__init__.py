"""Reproduce, check and extend results on KV-cache compression for reasoning models.

Public names are imported when they are first used, so that grading, drawing and the command line start
without torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

__version__ = "0.2.0"


def _load_kernels_of_the_checkout() -> None:
    """In a checkout, installed or not, the kernels lie beside the package; nothing else there becomes a part of it."""
    package = Path(__file__).parent
    if (package / "kernels").is_dir():
        return
    name, init = f"{__name__}.kernels", package.parent / "kernels" / "__init__.py"
    spec = spec_from_file_location(name, init)
    sys.modules[name] = globals()["kernels"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])


_load_kernels_of_the_checkout()

_PUBLIC = {
    "generate": "engine.generate",
    "load_model": "models.loading",
    "model_entry": "models.table",
    "load_problems": "benchmarks.table",
    "benchmark_entry": "benchmarks.table",
    "CellConfig": "runs.config",
    "run_cell": "runs.runner",
    "CellFolder": "runs.folder",
    "read_records": "runs.folder",
    "create_method": "methods.table",
    "EvictionMethod": "methods.base",
    "EvictionView": "methods.views",
    "Schedule": "methods.budgets",
    "CompressedCache": "cache.slots",
    "Engine": "engine.engine",
    "grade": "graders.grading",
    "grade_many": "graders.grading",
    "interval": "scores.statistics",
    "paired_comparison": "scores.statistics",
    "holm": "scores.statistics",
    "load_profile": "runs.profiles",
    "summarise_profile": "runs.summary",
    "results_root": "paths",
    "project_root": "paths",
    "KnownTrace": "analysis.fidelity",
    "measure_fidelity": "analysis.fidelity",
    "summarise_fidelity": "analysis.fidelity",
    "load_predictor": "methods.learned.importance",
    "load_plan": "training.importance.settings",
    "set_theme": "figures.theme",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kvrepro' has no attribute {name!r}; public names: {', '.join(_PUBLIC)}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
