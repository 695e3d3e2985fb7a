"""The pretend device as a whole: what torch is told while it is there."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from .dispatch import PretendMode
from .graphs import PretendGraph, pool_handle
from .guard import device_guard, unavailable
from .journal import Journal
from .kernels import PretendKernels
from .nodes import Recording
from .streams import PretendEvent, PretendStream, QueuedCopies
from .tensor import DEVICE, PretendTensor

__all__ = ["PretendCuda", "unavailable"]

# an H100's
PROPERTIES = SimpleNamespace(
    name="Pretend H100", major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30, warp_size=32
)


class PretendCuda:
    """A context in which torch has one GPU.

    Args:
        interpret: run Triton kernels in its interpreter (`TRITON_INTERPRET=1` must be set) instead of their twins.

    Attributes:
        journal: what happened.
        capture: the stream capture that is under way.
        captures: captures begun so far.
        ticks: steps so far, as whoever makes them counts; the age of an event is told in them.
        pools_underway: graph memory that the allocator hands out now; a capture that failed leaves its own here.
    """

    def __init__(self, *, interpret: bool = False):
        self.journal, self.copies = Journal(), QueuedCopies()
        self.captures = self.ticks = 0
        self.capture: Recording | None = None
        self.capture_fault: str | None = None
        self.pools_underway: list[tuple[int, int]] = []
        self.kernels = PretendKernels(self, interpret=interpret)
        types = (PretendStream, PretendEvent, PretendGraph)
        self.stream_type, self.event_type, self.graph_type = map(self._bound, types)
        self._default = self._stream = self.stream_type(is_default=True)
        self._stack = ExitStack()

    def __enter__(self) -> PretendCuda:
        with ExitStack() as stack:
            stack.enter_context(device_guard())
            lifts = torch._C._only_lift_cpu_tensors()
            torch._C._set_only_lift_cpu_tensors(True)
            stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
            # a module that moves gets new parameters: those it has cannot become tensors of another class
            overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
            torch.__future__.set_overwrite_module_params_on_conversion(True)
            stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
            for owner, name, value in self._patches():
                stack.enter_context(patch.object(owner, name, value, create=True))
            stack.enter_context(self.kernels.in_place())
            stack.enter_context(PretendMode(self))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    # -------------------------------------------------------------------------------------- for tests

    def move(self, module: nn.Module) -> nn.Module:
        """Put a module's tensors on the device, in place; returns it. Memory that they shared they share there, too."""
        for part in module.modules():
            for name, tensor in part._parameters.items():
                if tensor is not None:
                    part._parameters[name] = nn.Parameter(PretendTensor(tensor.data, self), requires_grad=False)
            for name, tensor in part._buffers.items():
                if tensor is not None:
                    part._buffers[name] = PretendTensor(tensor, self)
            for name, value in vars(part).items():
                if isinstance(value, Tensor):
                    setattr(part, name, PretendTensor(value, self))
        return module

    def tensor(self, values: Tensor) -> PretendTensor:
        """A copy of a CPU tensor on the device, without a word in the journal."""
        return PretendTensor(values.clone(), self)

    # -------------------------------------------------------------------------------------- for the device's parts

    def forbid_in_capture(self, what: str) -> None:
        """Raise, and break the capture, where one is under way."""
        if self.capture is not None:
            self.capture_fault = what
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")

    def host_waits(self, kind: str, what: str) -> None:
        """The host waits for the device."""
        self.journal.note(kind, what)
        self.forbid_in_capture(what)
        self.copies.finish()

    def host_read(self, what: str) -> None:
        """The host waits for a value."""
        self.host_waits("host read", what)

    def current_stream(self, device: Any = None) -> PretendStream:
        """The stream that work goes to."""
        return self._stream

    # -------------------------------------------------------------------------------------- torch.cuda

    def _patches(self) -> list[tuple[Any, str, Any]]:
        cuda = {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "device": CurrentDevice,
            "Stream": self.stream_type,
            "Event": self.event_type,
            "CUDAGraph": self.graph_type,
            "current_stream": self.current_stream,
            "default_stream": lambda device=None: self._default,
            "set_stream": self._set_stream,
            "synchronize": lambda device=None: self.host_waits("device wait", "torch.cuda.synchronize"),
            "empty_cache": self._empty_cache,
            "graph_pool_handle": pool_handle,
            "is_current_stream_capturing": lambda: self.capture is not None,
            "get_device_properties": lambda device=None: PROPERTIES,
            "get_device_capability": lambda device=None: (PROPERTIES.major, PROPERTIES.minor),
            "get_device_name": lambda device=None: PROPERTIES.name,
            "mem_get_info": lambda device=None: (60 * 2**30, PROPERTIES.total_memory),
            "memory_allocated": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 0,
            "memory_reserved": lambda device=None: 0,
            "reset_peak_memory_stats": lambda device=None: None,
        }
        internal = {
            "_host_emptyCache": lambda: None,
            "_cuda_endAllocateToPool": lambda device, pool: self.pools_underway.remove(pool),
            "_cuda_isCurrentStreamCapturing": lambda: self.capture is not None,
        }
        return [
            *((torch.cuda, name, value) for name, value in cuda.items()),
            *((torch._C, name, value) for name, value in internal.items()),
            (torch.cuda.graph, "default_capture_stream", None),
            (torch, "tensor", partial(_tensor, torch.tensor)),
        ]

    def _bound(self, cls: type) -> type:
        """A class whose objects know their device, made as torch makes them."""
        return type(cls.__name__, (cls,), {"gpu": self})

    def _set_stream(self, stream: PretendStream | None) -> None:
        if stream is not None:
            self._stream = stream

    def _empty_cache(self) -> None:
        if self.pools_underway:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED: a capture that failed was not ended")
        self.forbid_in_capture("empty_cache")


class CurrentDevice:
    """`torch.cuda.device`; there is one."""

    def __init__(self, device: Any):
        if device not in (None, -1, 0, DEVICE, torch.device("cuda"), "cuda", "cuda:0"):
            raise RuntimeError(f"CUDA error: invalid device ordinal ({device})")

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass


def _tensor(make: Any, values: Any, *args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
    """`torch.tensor`, which pins without asking the mode."""
    made = make(values, *args, **kwargs)
    return made.pin_memory() if pin_memory else made
