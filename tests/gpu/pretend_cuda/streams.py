"""Streams, events and the copies that are on their way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import _disable_current_modes

from .nodes import Outside, memory_of, poison
from .tensor import DEVICE

if TYPE_CHECKING:
    from .cuda import PretendCuda


@dataclass
class _Copy:
    """A copy that is queued: `host` is pinned memory, `values` what it must hold afterwards (or until then)."""

    mark: int
    host: Outside
    values: Tensor
    to_host: bool


class QueuedCopies:
    """Copies between the device and pinned memory that the host has not waited for.

    A copy to the host happens as late as the host allows: until it waits, the memory holds nothing. A copy to the
    device takes what the memory holds now, so the memory must hold the same when the host next waits.
    """

    def __init__(self):
        self._pinned: dict[int, StorageWeakRef] = {}
        self._open: list[_Copy] = []
        self._marks = count(1)
        self._passed = 0

    def pin(self, tensor: Tensor) -> Tensor:
        """Call a CPU tensor's memory pinned; returns the tensor."""
        self._pinned[memory_of(tensor)] = StorageWeakRef(tensor.untyped_storage())
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether the memory of a CPU tensor is pinned."""
        storage = self._pinned.get(memory_of(tensor))
        return storage is not None and not storage.expired()

    def to_host(self, host: Tensor, values: Tensor) -> None:
        """Queue a copy into pinned memory."""
        values = values.clone()
        poison(host)
        self._open.append(_Copy(self.mark(), Outside.of(host), values, True))

    def to_device(self, host: Tensor) -> None:
        """A copy from pinned memory was queued."""
        self._open.append(_Copy(self.mark(), Outside.of(host), host.clone(), False))

    def mark(self) -> int:
        """A number for this point in the queue."""
        return next(self._marks)

    def has_passed(self, mark: int) -> bool:
        """Whether the host has waited for a point: until then the device may not be there."""
        return mark <= self._passed

    @torch.inference_mode()
    def finish(self, mark: int | None = None) -> None:
        """The host has waited for a point in the queue; None is its end.

        Raises `RuntimeError` where the source of a copy before it was changed.
        """
        mark = self.mark() if mark is None else mark
        self._passed = max(self._passed, mark)
        ready = [copy for copy in self._open if copy.mark <= mark]
        self._open = self._open[len(ready) :]
        with _disable_current_modes():
            for copy in ready:
                # memory that was given back is not handed out before its copies are done
                if copy.host.storage.expired() or copy.values.is_meta:
                    continue
                host = copy.host.tensor("copy")
                if copy.to_host:
                    host.copy_(copy.values)
                elif not torch.equal(host, copy.values):
                    raise RuntimeError(f"pinned memory of shape {tuple(host.shape)} changed before its copy was done")


class PretendStream:
    """A queue of work; everything runs at once, so only its identity matters."""

    gpu: PretendCuda
    _ids = count(1)

    def __init__(self, device: Any = None, priority: int = 0, *, is_default: bool = False):
        self.device, self.is_default = DEVICE, is_default
        self.stream_id = self.cuda_stream = 0 if is_default else next(self._ids)

    def wait_stream(self, stream: PretendStream) -> None:
        """Later work waits for what the other stream holds now; the host does not."""

    def wait_event(self, event: PretendEvent) -> None:
        """Later work waits for the event; the host does not."""

    def record_event(self, event: PretendEvent | None = None) -> PretendEvent:
        """Mark this point."""
        event = event or self.gpu.event_type()
        event.record(self)
        return event

    def query(self) -> bool:
        """Whether all is done."""
        self.gpu.forbid_in_capture("stream.query")
        return True

    def synchronize(self) -> None:
        """The host waits."""
        self.gpu.host_waits("stream wait", "stream.synchronize")

    def __enter__(self) -> PretendStream:
        self._context = torch.cuda.stream(self)
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


class PretendEvent:
    """A mark in a stream."""

    gpu: PretendCuda

    def __init__(self, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False):
        self.mark: int | None = None
        self.tick, self.at = 0, 0.0

    def record(self, stream: PretendStream | None = None) -> None:
        """Mark what is queued now."""
        self.mark, self.tick, self.at = self.gpu.copies.mark(), self.gpu.ticks, time.perf_counter()

    def query(self) -> bool:
        """Whether the mark was passed; a device is as slow as the host allows."""
        self.gpu.forbid_in_capture("event.query")
        return self.mark is None or self.gpu.copies.has_passed(self.mark)

    def synchronize(self) -> None:
        """The host waits for the mark; noted with its age in ticks."""
        self.gpu.forbid_in_capture("event.synchronize")
        if self.mark is not None:
            self.gpu.journal.note("event wait", f"{self.gpu.ticks - self.tick} ticks old")
            self.gpu.copies.finish(self.mark)

    def wait(self, stream: PretendStream | None = None) -> None:
        """The stream waits; the host does not."""

    def elapsed_time(self, later: PretendEvent) -> float:
        """Milliseconds of the host between the two."""
        return (later.at - self.at) * 1e3
