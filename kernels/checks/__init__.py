"""Every kernel against its torch twin: the same cases in the tests (Triton's interpreter) and on a GPU.

`python -m kvrepro.kernels.checks` runs them on the GPU, or in the interpreter with `TRITON_INTERPRET=1`.
"""

from __future__ import annotations

from importlib import import_module

from .common import Result, run_cases

STEMS = (
    "decode_attention",
    "append_kv",
    "add_rms_norm",
    "silu_mul",
    "compact_slots",
    "key_redundancy",
    "window_scores",
    "sample",
    "skinny_linear",
)


def run(stem: str, device: str, impl: str = "triton", *, large: bool = False) -> list[Result]:
    """All cases of a kernel; `large` adds those in the shapes of real models, which need a GPU."""
    module = import_module(f".{stem}", __name__)
    return run_cases(module, device, impl, [*module.CASES, *(module.LARGE_CASES if large else [])])
