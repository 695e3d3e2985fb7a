"""Recording device work as a CUDA graph, and leaving torch in order where that fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import torch

Result = TypeVar("Result")


class Recorder:
    """Records graphs that never run at the same time: they share one pool of memory and one stream.

    Args:
        device: the GPU; it must be the current one while something is recorded.
        warm_ups: how often the work runs before it is recorded, so that kernels are compiled and workspaces of
            libraries allocated outside of the graph.

    Attributes:
        has_warmed_up: whether the last work that was recorded, or could not be, ran before.
    """

    def __init__(self, device: torch.device, warm_ups: int = 2):
        # a stream of its own: torch may free the workspaces of all graphs that were recorded on one stream together
        self.stream, self.device, self.warm_ups, self.has_warmed_up = torch.cuda.Stream(device), device, warm_ups, False
        self.renew()

    def renew(self) -> None:
        """Begin another pool: what was recorded is gone, or could not be recorded."""
        self.pool = torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Result]) -> tuple[torch.cuda.CUDAGraph, Result]:
        """A graph of `work` and what `work` returned: static tensors that a replay fills.

        Raises what `work` raises, and whatever a capture forbids.
        """
        home, self.has_warmed_up = torch.cuda.current_stream(), False
        self.stream.wait_stream(home)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self.stream):
                for _ in range(self.warm_ups):
                    work()
            home.wait_stream(self.stream)
            self.has_warmed_up = True
            # other threads may use the device meanwhile
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
                result = work()
        except BaseException:
            self._abandon(home)
            raise
        return graph, result

    def _abandon(self, home: torch.cuda.Stream) -> None:
        """Undo what a capture that could not be ended leaves behind in torch.

        The current stream stays the capture's, the allocator goes on to serve the pool (and every later
        `empty_cache` fails), and the generator of random numbers believes that it is being captured.
        """
        torch.cuda.set_stream(home)
        # raises where the capture was ended in order, or never begun
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), self.pool)
        # torch goes on to count the pool as in use
        self.renew()
        # what the work has queued may still write; a device that is lost says so in the error under way
        with suppress(RuntimeError):
            self.stream.synchronize()
            # the end of another capture sets the generator right, for the graphs recorded before as well
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=self.stream):
                torch.zeros(1, device=self.device)


def root_cause(error: BaseException) -> str:
    """What a capture failed of: the first error, not the ones that its end raised on top of it."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}"
