"""What all wrappers share: which path runs, checks that name the offending number, and the launch itself.

Nothing here imports Triton before a kernel runs, so that a machine without it (or without a GPU) never pays for it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

IMPLS = ("auto", "triton", "reference")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# streaming multiprocessors assumed where no device says it: an H100's
DEFAULT_PROCESSORS = 132
# softmax runs on powers of two, which the hardware has; logits are scaled by this once
LOG2_E = 1.4426950408889634
# the first NVIDIA GPUs with programmatic dependent launch
PDL_CAPABILITY = (9, 0)


@dataclass(frozen=True)
class Launch:
    """One kernel launch as the wrapper asked for it; `aot` compiles what it finds here."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    constants: dict[str, Any]
    warps: int
    stages: int


_recorded: list[Launch] | None = None


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Collect launches instead of running them; tensors may live on the device `meta`, which also proves that no
    wrapper reads a value back from the device."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


def interpreting() -> bool:
    """True when Triton's interpreter runs kernels on CPU tensors (set before Triton is imported)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def have_triton() -> bool:
    """True when Triton can be imported; finds out without importing it."""
    return find_spec("triton") is not None


def device_code(stem: str) -> ModuleType:
    """The module with the Triton kernels of a stem, imported on first use."""
    return import_module(f".device.{stem}", __package__)


def choose(stem: str, impl: str, tensor: Tensor, refused: str | None = None) -> bool:
    """True for the Triton path, False for the reference.

    Args:
        stem: the kernel's name, for messages.
        impl: `auto` takes Triton on a GPU and the reference elsewhere; the others force one.
        tensor: its device decides.
        refused: why the kernel does not serve these arguments, or None.

    Raises:
        ValueError: an unknown `impl`, or `impl="triton"` where it cannot run.
    """
    if impl not in IMPLS:
        raise ValueError(f"{stem}: impl={impl!r}; known are {', '.join(IMPLS)}")
    if impl == "reference":
        return False
    if not have_triton():
        refused = "triton is not installed (pip install triton)"
    if impl == "triton":
        if refused is None and not (tensor.is_cuda or interpreting() or _recorded is not None):
            refused = f"the tensors are on {tensor.device}, not on a GPU, and TRITON_INTERPRET=1 is not set"
        if refused is not None:
            raise ValueError(f'{stem}: impl="triton" cannot run: {refused}; use impl="reference" or "auto"')
        return True
    if not tensor.is_cuda:
        return False
    if refused is not None:
        say_once(f"{stem}: {refused}; the slower torch reference runs instead")
    return refused is None


@cache
def say_once(text: str) -> None:
    """Warn, the first time."""
    warnings.warn(text, RuntimeWarning, stacklevel=4)


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    arguments: dict[str, Any],
    constants: dict[str, Any],
    *,
    warps: int = 4,
    stages: int = 2,
) -> None:
    """Run (or record) one kernel; every argument by name. An empty grid does nothing.

    A kernel that takes the constant `PDL` is launched before its predecessor has ended where the device can, and is
    told so; what is recorded says that it may be.
    """
    if 0 in grid:
        return
    device = next(a.device for a in arguments.values() if isinstance(a, Tensor))
    if "PDL" in kernel.arg_names:
        constants = constants | {"PDL": pdl_allowed() and (_recorded is not None or has_pdl(device))}
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, dict(arguments), dict(constants), warps, stages))
        return
    # fused multiply-add stays on in every Triton version: 3.10 changes the default and 3.9 warns about it
    options = dict(num_warps=warps, num_stages=stages_on(torch.version.hip is not None, stages), enable_fp_fusion=True)
    if constants.get("PDL"):
        # only NVIDIA's back end knows the option
        options["launch_pdl"] = True
    if device.type == "cuda":
        with torch.cuda.device(device):
            kernel[grid](**arguments, **constants, **options)
    else:
        kernel[grid](**arguments, **constants, **options)


def stages_on(hip: bool, stages: int) -> int:
    """Pipeline stages: AMD's local memory (64 KiB) holds fewer tiles than NVIDIA's shared memory."""
    return min(stages, 2) if hip else stages


_pdl_failed = False


def pdl_allowed() -> bool:
    """False under `KVREPRO_PDL=0`, which turns programmatic dependent launch off, read at every launch; and where it
    was given up."""
    return not _pdl_failed and os.environ.get("KVREPRO_PDL", "1") != "0"


def give_up_pdl(device: torch.device) -> bool:
    """Launch plainly for the rest of the process; False where that was so already, and nothing has changed."""
    global _pdl_failed
    was_used = pdl_allowed() and has_pdl(device)
    _pdl_failed = True
    return was_used


def has_pdl(device: torch.device) -> bool:
    """True for an NVIDIA GPU of compute capability 9.0 or above that compiles kernels."""
    if device.type != "cuda" or torch.version.hip is not None or interpreting():
        return False
    return _capability(device.index or 0) >= PDL_CAPABILITY


@cache
def _capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def processors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; an H100's where there is none."""
    return _processors(device.index or 0) if device.type == "cuda" else DEFAULT_PROCESSORS


@cache
def _processors(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


def power_of_two(n: int, least: int = 1) -> int:
    """The smallest power of two that is at least `n` and `least`."""
    return max(least, 1 << (n - 1).bit_length()) if n > 0 else least


def ceil_div(a: int, b: int) -> int:
    """`a / b` rounded up."""
    return -(-a // b)


def precision(dtype: torch.dtype) -> str:
    """How `tl.dot` multiplies: exactly for float32, where the default would cut inputs to 10 bits of mantissa."""
    if dtype == torch.bfloat16 and interpreting() and _recorded is None:
        return "widened"
    return "ieee" if dtype == torch.float32 else "tf32"


def check_float(stem: str, **tensors: Tensor) -> None:
    """All of one supported dtype.

    Raises:
        ValueError: naming the tensor and its dtype.
    """
    first = next(iter(tensors.values())).dtype
    for name, t in tensors.items():
        if t.dtype not in FLOATS or t.dtype != first:
            raise ValueError(f"{stem}: {name} is {t.dtype}; all must share one of float32, float16, bfloat16")


def check_shape(stem: str, name: str, tensor: Tensor, *expected: int | None) -> None:
    """Compare a shape, None being any size.

    Raises:
        ValueError: naming the tensor, the dimension and both numbers.
    """
    if tensor.dim() != len(expected):
        raise ValueError(f"{stem}: {name} has {tensor.dim()} dimensions {tuple(tensor.shape)}; expected {expected}")
    for axis, (found, wanted) in enumerate(zip(tensor.shape, expected, strict=True)):
        if wanted is not None and found != wanted:
            raise ValueError(f"{stem}: {name} has size {found} in dimension {axis}, expected {wanted}")


def check_dense_last(stem: str, **tensors: Tensor) -> None:
    """The last dimension must be contiguous; kernels do not take its stride.

    Raises:
        ValueError: naming the tensor and its stride.
    """
    for name, t in tensors.items():
        if t.shape[-1] > 1 and t.stride(-1) != 1:
            raise ValueError(f"{stem}: {name} has stride {t.stride(-1)} in its last dimension; expected 1")


def check_integers(stem: str, **tensors: Tensor | None) -> None:
    """Contiguous int32 or int64, or None.

    Raises:
        ValueError: naming the tensor and what it is.
    """
    for name, t in tensors.items():
        if t is None:
            continue
        if t.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{stem}: {name} is {t.dtype}; expected int32 or int64")
        if not t.is_contiguous():
            raise ValueError(f"{stem}: {name} has strides {t.stride()}; expected a contiguous tensor")


def check_group(stem: str, q_heads: int, kv_heads: int) -> int:
    """Query heads per KV head.

    Raises:
        ValueError: naming both counts.
    """
    if kv_heads < 1 or q_heads % kv_heads:
        raise ValueError(f"{stem}: {q_heads} query heads are no multiple of {kv_heads} KV heads")
    return q_heads // kv_heads


def refuse_size(size: int, largest: int = 256) -> str | None:
    """Why a head size is not served, or None."""
    return None if 1 <= size <= largest else f"head size {size} is outside 1 to {largest}"


def triton_version() -> str | None:
    """Version of the Triton in use, None when it is not installed or not imported yet."""
    return getattr(sys.modules.get("triton"), "__version__", None)
