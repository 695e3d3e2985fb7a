"""A pretend CUDA: tensors that say `cuda:0` and hold CPU values, with streams, events, stream capture and graph replay.

It runs code for a GPU where there is none and tells what a GPU would have objected to or waited for: tensors of two
devices in one operation, host reads and blocking copies (each with the line that asked), what a capture forbids, memory
that a graph reads after it was freed, a pinned buffer that is read or changed before its copy has happened. A capture
records without executing, and what it computed is poisoned; a replay executes. It knows nothing of speed.
"""

from .cuda import PretendCuda, unavailable
from .journal import BLOCKING, Event
from .tensor import PretendTensor

__all__ = ["BLOCKING", "Event", "PretendCuda", "PretendTensor", "unavailable"]
