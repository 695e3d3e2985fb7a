"""`torch.cuda.CUDAGraph` on the pretend device; `torch.cuda.graph` itself is torch's own."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from .nodes import Recording

if TYPE_CHECKING:
    from .cuda import PretendCuda
    from .streams import PretendStream

_HANDLES = count(1)


def pool_handle() -> tuple[int, int]:
    """A pool of graph memory of its own."""
    return (0, next(_HANDLES))


class PretendGraph:
    """Records what runs between `capture_begin` and `capture_end`, and runs it at `replay`.

    A capture in which something forbidden happened fails at its end, and as in torch (up to 2.11 at least) leaves the
    allocator in the state of a capture until `torch._C._cuda_endAllocateToPool` is called.
    """

    gpu: PretendCuda

    def __init__(self, keep_graph: bool = False):
        self.recording: Recording | None = None
        self._pool: tuple[int, int] | None = None
        self._stream: PretendStream | None = None

    def capture_begin(self, pool: tuple[int, int] | None = None, capture_error_mode: str = "global", **_: Any) -> None:
        """Begin; on a side stream only, and one capture at a time."""
        gpu = self.gpu
        if self.recording is not None:
            raise RuntimeError("this CUDAGraph has been captured; reset it first")
        if gpu.current_stream().is_default:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream")
        if gpu.capture is not None:
            raise RuntimeError("operation not permitted when stream is capturing: a second capture")
        self._pool, self._stream = pool or pool_handle(), gpu.current_stream()
        gpu.pools_underway.append(self._pool)
        gpu.capture, gpu.capture_fault = Recording(), None
        gpu.captures += 1

    def capture_end(self) -> None:
        """End; `RuntimeError` if the capture was broken."""
        gpu = self.gpu
        if gpu.capture is None or gpu.current_stream() is not self._stream:
            raise RuntimeError("a capture must end on the stream that it began on")
        recording, fault, gpu.capture, gpu.capture_fault = gpu.capture, gpu.capture_fault, None, None
        recording.seal()
        if fault is not None:
            raise RuntimeError(f"CUDA error: operation failed due to a previous error during capture: {fault}")
        gpu.pools_underway.remove(self._pool)
        self.recording = recording
        gpu.journal.note("capture", f"{len(recording)} nodes")

    def replay(self) -> None:
        """Queue the graph's work."""
        if self.recording is None:
            raise RuntimeError("replay of a CUDAGraph that has not been captured")
        self.gpu.forbid_in_capture("graph.replay")
        self.gpu.journal.note("replay", f"{len(self.recording)} nodes")
        self.recording.replay()

    def pool(self) -> tuple[int, int]:
        """The handle of the graph's memory."""
        if self._pool is None:
            raise RuntimeError("the CUDAGraph has no pool before its capture")
        return self._pool

    def reset(self) -> None:
        """Drop the graph."""
        self.recording = self._pool = None
