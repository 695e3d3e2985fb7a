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

from .nodes import Outside, poison
from .tensor import DEVICE

if TYPE_CHECKING:
    from .cuda import PretendCuda


@dataclass
class _Copy:
    """A copy that is queued: `host` is pinned memory, `values` what it must hold afterwards (or until then)."""

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
        self.queued = 0

    def pin(self, tensor: Tensor) -> Tensor:
        """Call a CPU tensor's memory pinned; returns the tensor."""
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = StorageWeakRef(storage)
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether the memory of a CPU tensor is pinned."""
        storage = self._pinned.get(tensor.untyped_storage().data_ptr())
        return storage is not None and not storage.expired()

    def to_host(self, host: Tensor, values: Tensor) -> None:
        """Queue a copy into pinned memory."""
        values = values.clone()
        poison(host)
        self._queue(_Copy(Outside.of(host), values, True))

    def to_device(self, host: Tensor) -> None:
        """A copy from pinned memory was queued."""
        self._queue(_Copy(Outside.of(host), host.clone(), False))

    def _queue(self, copy: _Copy) -> None:
        self._open.append(copy)
        self.queued += 1

    @torch.inference_mode()
    def finish(self, until: int | None = None) -> None:
        """The host has waited for the first `until` copies ever queued (None: for all).

        Raises `RuntimeError` where the source of one was changed before.
        """
        n_done = self.queued - len(self._open)
        ready = self._open[: len(self._open) if until is None else max(0, until - n_done)]
        del self._open[: len(ready)]
        with _disable_current_modes():
            for copy in ready:
                # memory that was given back is not handed out before its copies are done
                if copy.host.storage.expired():
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
        self.copies: int | None = None
        self.tick, self.at = 0, 0.0

    def record(self, stream: PretendStream | None = None) -> None:
        """Mark what is queued now."""
        self.copies, self.tick, self.at = self.gpu.copies.queued, self.gpu.ticks, time.perf_counter()

    def query(self) -> bool:
        """Whether the mark was passed: always, and then its copies are done."""
        self.gpu.forbid_in_capture("event.query")
        self.gpu.copies.finish(self.copies or 0)
        return True

    def synchronize(self) -> None:
        """The host waits for the mark; noted with its age in ticks."""
        self.gpu.forbid_in_capture("event.synchronize")
        if self.copies is not None:
            self.gpu.journal.note("event wait", f"{self.gpu.ticks - self.tick} ticks old")
            self.gpu.copies.finish(self.copies)

    def wait(self, stream: PretendStream | None = None) -> None:
        """The stream waits; the host does not."""

    def elapsed_time(self, later: PretendEvent) -> float:
        """Milliseconds of the host between the two."""
        return (later.at - self.at) * 1e3
