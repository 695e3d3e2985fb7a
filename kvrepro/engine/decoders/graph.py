"""A decode step for a GPU: static buffers, device-side counters, CUDA graphs, the Triton kernels.

The layers are those of `FusedDecoder` where it serves the model, else the model's own forward; attention and the write
into the cache are `StaticStep`'s. A cache of fixed capacity never changes its shapes, so one captured graph serves
every step of a batch size; evictions, admissions and releases happen between replays and only change what the counters
say. On a CPU the same step runs uncaptured with the kernels' torch twins, which is how the tests hold it to the
decoders that run there. It has not run on a GPU yet; `kvrepro gpu-check` is what will measure it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...cache.slots import CompressedCache
from ...cache.static_step import StaticStep
from ...errors import KvreproError
from ...kernels.launch import give_up_pdl, say_once
from ..stage_timer import StageTimer
from .capture import Recorder, root_cause
from .fused import FusedDecoder
from .module import ModuleDecoder

# batch sizes that have a graph of their own begin here; below it the weights are most of a step, whatever its rows
FIRST_RUNG = 32
# so has the span of slots that attention is launched over: over more than is in use it starts programs without work
FIRST_SPAN = 4096
# rotations whose frequencies depend on the longest position, which transformers reads from the device
READING_ROPES = ("dynamic", "longrope")


class Tail(Protocol):
    """What follows the model in a step, see `StepTail`; one object for all steps of a cache."""

    form: int | None

    def tokens(self, n_rows: int) -> Tensor:
        """`[B]` int64: the static buffer of the tokens that are fed."""

    def written(self) -> list[Tensor]:
        """What `draw` changes; a warm-up puts it back."""

    def draw(self, n_rows: int, logits: Tensor, hidden: Tensor) -> Tensor:
        """Observe the step and draw the next tokens, `[B]` int64."""


class GraphDecoder:
    """Steps over static buffers, replayed as CUDA graphs where that can be had.

    Args:
        model: a model on one device; where `FusedDecoder` serves it, its projections are fused in place.
        capture: replay CUDA graphs, which needs a GPU; None does so on a GPU. False runs the same step launch by
            launch. Becomes False where a capture fails, which a warning says.
        impl: which kernels, see `kvrepro.kernels`.

    Logits, hidden states and drawn tokens of a captured step are views of static buffers: the next step overwrites
    them.
    """

    batch_invariant: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel, capture: bool | None = None, impl: str = "auto"):
        check_one_device(model)
        self.device, self.impl = model.device, impl
        on_gpu = self.device.type == "cuda"
        if capture and not on_gpu:
            raise KvreproError(f"capture=True needs a GPU; the model is on {self.device}")
        self.capture = on_gpu if capture is None else capture
        self.forward = FusedDecoder(model) if FusedDecoder.serves(model) else ModuleDecoder(model)
        self.name = "graph" if isinstance(self.forward, FusedDecoder) else "graph-module"
        if self.capture and (kind := _reading_rope(model)):
            self.capture = False
            say_once(f"rope_type={kind!r} reads the device at every step; the step runs launch by launch, slower")
        self._recorder: Recorder | None = None
        self._bind(None)

    @property
    def captures(self) -> bool:
        """Whether `step_and_draw` holds a step and its tail in one graph."""
        return self.capture

    @property
    def cache(self) -> CompressedCache | None:
        """The cache that the graphs belong to, while it lives."""
        return None if self._cache_of is None else self._cache_of()

    def step(self, tokens: Tensor, cache: CompressedCache, timer: StageTimer | None = None) -> tuple[Tensor, Tensor]:
        """See `choose`; a graph is replayed whole, so no timer is told its parts."""
        n_rows = len(tokens)
        if not self.capture and isinstance(self.forward, ModuleDecoder) and self.device.type == "cuda":
            # nothing is gained by static shapes that no graph holds
            return self.forward.step(tokens, cache, timer)
        with self._opened(n_rows, cache) as size:
            self._tokens[:n_rows].copy_(tokens)
            logits, hidden, _ = self._replay(size, None)
        counters = cache.counters
        cache.step_rows, cache.step_positions = counters.rows[:n_rows], counters.seen[:n_rows] - 1
        cache.step_slots = counters.lengths[:n_rows] - 1
        return logits[:n_rows], hidden[:n_rows]

    def step_and_draw(self, cache: CompressedCache, tail: Tail) -> Tensor:
        """A step with what follows it: the drawn tokens `[B]`.

        Raises `KvreproError` as `step`.
        """
        n_rows = cache.n_rows
        with self._opened(n_rows, cache) as size:
            _, _, drawn = self._replay(size, tail)
        return drawn[:n_rows]

    @contextmanager
    def _opened(self, n_rows: int, cache: CompressedCache) -> Iterator[tuple[int, int]]:
        """A step from its checks to the host's counts; gives rows and slots of the graph that serves it."""
        longest = cache.longest_after(n_rows)
        if self.cache is not cache:
            self._bind(cache)
        here = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        with here, torch.inference_mode():
            cache.counters.follow(cache.lengths, cache.seen)
            yield tuple(
                next(size for size in ladder if size >= needed)
                for ladder, needed in ((self._ladder, n_rows), (self._spans, longest))
            )
        cache.lengths, cache.seen = [n + 1 for n in cache.lengths], [n + 1 for n in cache.seen]
        cache.peak_tokens = max(cache.peak_tokens, longest)
        cache.counters.counted(cache.lengths, cache.seen)

    def _bind(self, cache: CompressedCache | None) -> None:
        """Make ready for a cache; graphs of another one are dropped."""
        self._graphs: dict[tuple[Any, ...], tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]] = {}
        if self._recorder is not None:
            self._recorder.renew()
        self._ladder: list[int] = []
        self._spans: list[int] = []
        # not a reference: the decoder outlives the caches that it has served, and their graphs go with them
        self._cache_of = None if cache is None else weakref.ref(cache, self._forget())
        if cache is not None:
            rows = cache.max_rows
            self._tokens = torch.zeros(rows, dtype=torch.int64, device=cache.kv.device)
            # below the first rung one graph serves all, so that a row's bits do not change when another one leaves
            self._ladder = [*(n for n in (FIRST_RUNG * 2**i for i in range(16)) if n < rows), rows]
            capacity = cache.capacity
            self._spans = [*(n for n in (FIRST_SPAN * 2**i for i in range(16)) if 2 * n <= capacity), capacity]

    def _forget(self):
        """Called with a cache that has gone."""
        graphs = self._graphs
        return lambda _: graphs.clear()

    def _replay(self, size: tuple[int, int], tail: Tail | None) -> tuple[Tensor, ...]:
        # whether there is a tail, and in which form it works
        key = size if tail is None else (*size, tail.form)
        if self.capture and key not in self._graphs:
            try:
                self._graphs[key] = self._recorded(size, tail)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                # a kernel that does not compile is no RuntimeError, and no reason to stop either: it may run uncaptured
                self.capture = False
                why = root_cause(error)
                say_once(f"no CUDA graph could be captured ({why}); the same step runs launch by launch, slower")
        if not self.capture:
            return self._body(size, tail)
        graph, found = self._graphs[key]
        graph.replay()
        return found

    def _recorded(self, size: tuple[int, int], tail: Tail | None) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
        """As `_record`; a driver that cannot capture early launches gets plain ones."""
        try:
            return self._record(size, tail)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:
            # a step that does not even run has another fault
            has_warmed_up = self._recorder is not None and self._recorder.has_warmed_up
            if not has_warmed_up or not give_up_pdl(self.device):
                raise
            why = root_cause(error)
            say_once(f"no CUDA graph could be captured ({why}); tried again without programmatic dependent launch")
            return self._record(size, tail)

    def _record(self, size: tuple[int, int], tail: Tail | None) -> tuple[torch.cuda.CUDAGraph, tuple[Tensor, ...]]:
        """Capture a step; the warm-up runs with no live row, so it leaves cache and counters as they are.

        Remembered queries are the exception: a warm-up writes them where the step to come writes its own. What methods
        keep per slot, and what the tail writes, is put back.
        """
        cache = self.cache
        lengths, written = cache.counters.lengths, [*cache.slot_state.values(), *(tail.written() if tail else ())]
        before = [t.clone() for t in (lengths, *written)]
        lengths.fill_(-1)
        if self._recorder is None:
            self._recorder = Recorder(self.device)
        try:
            return self._recorder.record(lambda: self._body(size, tail))
        finally:
            for tensor, old in zip((lengths, *written), before, strict=True):
                tensor.copy_(old)

    def _body(self, size: tuple[int, int], tail: Tail | None) -> tuple[Tensor, ...]:
        """One step of so many rows of at most so many slots; device work only."""
        batch, span = size
        step = StaticStep(self.cache, batch, span, self.impl)
        tokens = self._tokens[:batch] if tail is None else tail.tokens(batch)
        logits, hidden = self.forward.static_step(tokens, step)
        drawn = tokens if tail is None else tail.draw(batch, logits, hidden)
        step.close()
        return logits, hidden, drawn


def check_one_device(model: PreTrainedModel) -> None:
    """Raise `KvreproError` for a model that lies on several devices."""
    devices = {p.device for p in model.parameters()}
    if len(devices) != 1:
        raise KvreproError(
            f"decoder='graph' serves models on one device, this one lies on {', '.join(sorted(map(str, devices)))}; "
            "use decoder='auto'"
        )


def _reading_rope(model: PreTrainedModel) -> str | None:
    """The kind of rotation that reads the device in each step, if the model has one."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for kind in kinds.values() if isinstance(kinds, dict) else (kinds,):
            if kind in READING_ROPES:
                return kind
    return None
