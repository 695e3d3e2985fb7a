"""What torch asks of a machine before it accepts tensors of device `cuda`, given where there is no such device.

A CUDA build of torch that finds no GPU replaces its device guard by one that does nothing, which is what its fake
tensors run on. The CPU build has no guard to replace, so it is lent one of a device without backend first.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

CUDA, LAZY = 1, 17  # c10::DeviceType
REGISTRY = "_ZN3c104impl26device_guard_impl_registryE"
REQUIRE_INIT = "_ZN5torch5utils24set_requires_device_initEN3c1010DeviceTypeEb"


def _library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / f"lib{name}.so"))


def unavailable() -> str | None:
    """Why this torch cannot be told that it has a GPU, or None."""
    if torch.cuda.is_available():
        return "there is a GPU; hide it with CUDA_VISIBLE_DEVICES="
    try:
        with device_guard():
            return None
    except (AttributeError, OSError, RuntimeError, ValueError) as error:
        return f"torch {torch.__version__} has no device guard for a GPU and takes none: {error}"


@contextmanager
def device_guard() -> Iterator[None]:
    """A device guard for `cuda` that does nothing; what was there before comes back at the end.

    Raises `RuntimeError` where torch did not install it, `ValueError` where it lacks the registry.
    """
    guards = (ctypes.c_void_p * (LAZY + 1)).in_dll(_library("c10"), REGISTRY)
    require_init = getattr(_library("torch_python"), REQUIRE_INIT)
    before = guards[CUDA]
    try:
        if not before:
            # it counts no devices, which is what makes torch replace it
            guards[CUDA] = guards[LAZY]
        lent = guards[CUDA]
        torch._C._ensureCUDADeviceGuardSet()
        if guards[CUDA] == lent:
            raise RuntimeError("torch left the guard as it was")
        yield
    finally:
        guards[CUDA] = before
        # torch remembers that CUDA was initialised, which it was not
        require_init(CUDA, True)
