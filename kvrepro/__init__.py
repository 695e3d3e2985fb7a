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

_MODULES = {
    "engine.generate": ("generate",),
    "engine.compressing": ("compressing",),
    "models.loading": ("load_model",),
    "models.table": ("model_entry",),
    "benchmarks.table": ("load_problems", "benchmark_entry"),
    "runs.config": ("CellConfig",),
    "runs.runner": ("run_cell",),
    "runs.folder": ("CellFolder", "read_records"),
    "methods.table": ("create_method",),
    "methods.base": ("EvictionMethod",),
    "methods.views": ("EvictionView", "RowNumbers", "StepView"),
    "methods.budgets": ("Schedule",),
    "cache.attention": ("slot_attention",),
    "cache.prefill": ("prefill_prompt",),
    "cache.slots": ("CompressedCache",),
    "engine.engine": ("Engine",),
    "graders.grading": ("grade", "grade_many"),
    "scores.statistics": ("interval", "paired_comparison", "holm"),
    "runs.profiles": ("load_profile",),
    "runs.summary": ("summarise_profile",),
    "paths": ("results_root", "project_root"),
    "analysis.fidelity": ("KnownTrace", "measure_fidelity", "summarise_fidelity"),
    "methods.learned.importance": ("load_predictor",),
    "training.importance.settings": ("load_plan",),
    "figures.theme": ("set_theme",),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'kvrepro' has no attribute {name!r}; public names: {', '.join(_PUBLIC)}")
    return getattr(import_module(f".{_PUBLIC[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
