"""A decode step for a GPU: static buffers, device-side counters, one CUDA graph per batch size, the Triton kernels.

The layers are those of `FusedDecoder`, with another attention. A cache of fixed capacity never changes its shapes, so
one captured graph serves every step of a batch size; evictions, admissions and releases happen between replays and
only change what the counters say. On a CPU the same step runs uncaptured with the kernels' torch twins, which is how
the tests hold it to `FusedDecoder`. It has not run on a GPU yet; `kvrepro gpu-check` is what will measure it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...cache.slots import CompressedCache
from ...errors import KvreproError
from ...kernels.append_kv import append_kv
from ...kernels.decode_attention import decode_attention
from ...kernels.launch import say_once
from ..stage_timer import StageTimer
from .fused import FusedDecoder, check_layout

# steps before a capture, so that kernels are compiled and workspaces allocated outside of it
WARM_UPS = 2
# batch sizes that have a graph of their own begin here; below it the weights are most of a step, whatever its rows
FIRST_RUNG = 32
# rotations whose frequencies depend on the longest position, which transformers reads from the device
READING_ROPES = ("dynamic", "longrope")


class GraphDecoder:
    """Steps of the Llama layout over static buffers; a model without the layout is refused.

    Args:
        model: a model that `FusedDecoder.serves`; its projections are fused in place.
        capture: replay CUDA graphs, which needs a GPU; None does so on a GPU. False runs the same step launch by
            launch.
        impl: which kernels, see `kvrepro.kernels`.

    Logits and hidden states of a captured step are views of static buffers: the next step overwrites them.
    """

    name: ClassVar[str] = "graph"
    batch_invariant: ClassVar[bool] = False

    def __init__(self, model: PreTrainedModel, capture: bool | None = None, impl: str = "auto"):
        check_layout(model, "graph")
        on_gpu = model.device.type == "cuda"
        if capture and not on_gpu:
            raise KvreproError(f"capture=True needs a GPU; the model is on {model.device}")
        self.fused, self.capture, self.impl = FusedDecoder(model), on_gpu if capture is None else capture, impl
        if self.capture and (kind := getattr(self.fused.rotary, "rope_type", "default")) in READING_ROPES:
            self.capture = False
            say_once(f"rope_type={kind!r} reads the device at every step; the step runs launch by launch, slower")
        # not a reference: the decoder outlives the caches that it has served
        self._cache_of: Callable[[], CompressedCache | None] = lambda: None

    @property
    def cache(self) -> CompressedCache | None:
        """The cache that the static buffers belong to, while it lives."""
        return self._cache_of()

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: CompressedCache, timer: StageTimer | None = None) -> tuple[Tensor, Tensor]:
        """See `choose`; a graph is replayed whole, so no timer is told its parts."""
        n_rows, longest = cache.n_rows, cache.longest_after(len(tokens))
        if self.cache is not cache:
            self._bind(cache)
        if (cache.lengths, cache.seen) != self._on_device:
            self._upload(cache)
        batch = next(size for size in self._ladder if size >= n_rows)
        self._tokens[:n_rows].copy_(tokens)
        logits, hidden = self._replay(batch) if self.capture else self._body(batch)
        cache.step_rows, cache.step_positions = self._rows[:n_rows], self._seen[:n_rows] - 1
        cache.step_slots = self._lengths[:n_rows] - 1
        cache.lengths, cache.seen = [n + 1 for n in cache.lengths], [n + 1 for n in cache.seen]
        cache.peak_tokens = max(cache.peak_tokens, longest)
        self._on_device = (list(cache.lengths), list(cache.seen))
        return logits[:n_rows], hidden[:n_rows]

    def _bind(self, cache: CompressedCache) -> None:
        """Make the static buffers for a cache; graphs of another one are dropped."""
        device, rows = cache.kv.device, cache.max_rows
        self._cache_of = weakref.ref(cache)
        self._tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        # a row that is not live has length -1: it writes nothing, attends to nothing and does not count on
        self._lengths = torch.full((rows,), -1, dtype=torch.int64, device=device)
        self._seen = torch.zeros(rows, dtype=torch.int64, device=device)
        self._rows = torch.arange(rows, device=device)
        self._on_device: tuple[list[int], list[int]] = ([], [])
        # below the first rung one graph serves all, so that a row's bits do not change when another one leaves
        self._ladder = [*(n for n in (FIRST_RUNG * 2**i for i in range(16)) if n < rows), rows]
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}
        self._pool = None

    def _upload(self, cache: CompressedCache) -> None:
        """Send the counters after the host changed them: admission, release, eviction."""
        free = cache.max_rows - cache.n_rows
        counters = torch.tensor([cache.lengths + [-1] * free, cache.seen + [0] * free])
        if self.capture:
            # the copy is queued behind the running step; pinned memory is not reused before it has happened
            counters = counters.pin_memory()
        self._lengths.copy_(counters[0], non_blocking=True)
        self._seen.copy_(counters[1], non_blocking=True)

    def _replay(self, batch: int) -> tuple[Tensor, Tensor]:
        if batch not in self._graphs:
            try:
                self._graphs[batch] = self._record(batch)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:
                # a kernel that does not compile is no RuntimeError, and no reason to stop either: it may run uncaptured
                self.capture = False
                say_once(f"no CUDA graph could be captured ({error}); the same step runs launch by launch, slower")
                return self._body(batch)
        graph, logits, hidden = self._graphs[batch]
        graph.replay()
        return logits, hidden

    def _record(self, batch: int) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor]:
        """Capture a step; the warm-up runs with no live row, so it leaves cache and counters as they are.

        Remembered queries are the exception: a warm-up writes them where the step to come writes its own. What methods
        keep per slot is put back.
        """
        lengths, states = self._lengths.clone(), {k: v.clone() for k, v in self.cache.slot_state.items()}
        home = torch.cuda.current_stream()
        self._lengths.fill_(-1)
        try:
            stream = torch.cuda.Stream()
            stream.wait_stream(home)
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._body(batch)
            home.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                logits, hidden = self._body(batch)
        finally:
            # a capture that fails does not leave its own stream
            torch.cuda.set_stream(home)
            self._lengths.copy_(lengths)
            for name, state in states.items():
                self.cache.slot_state[name].copy_(state)
        # graphs never run at the same time, so they share one pool of memory
        self._pool = graph.pool()
        return graph, logits, hidden

    def _body(self, batch: int) -> tuple[Tensor, Tensor]:
        """One step of the first `batch` rows; device work only."""
        cache, shape, fused = self.cache, self.cache.shape, self.fused
        lengths, seen, rows = self._lengths[:batch], self._seen[:batch], self._rows[:batch]
        slots, after = lengths.clone(), lengths + 1
        live = lengths >= 0
        # what a method may look at while the step runs; a captured graph keeps reading these tensors
        cache.step_rows, cache.step_slots, cache.step_positions = rows, slots.clamp(min=0), seen
        turned_by = slots.clamp(min=0) if cache.reindexed else seen
        cos, sin = (angle.view(batch, -1) for angle in fused.rotary(fused.embed.weight, turned_by[:, None]))
        wanted = None if cache.on_mass is None else "all"

        def attend(index: int, qkv: Tensor) -> Tensor:
            keys, values = cache.kv[0, index, :batch], cache.kv[1, index, :batch]
            query = append_kv(qkv, cos, sin, keys, values, slots, impl=self.impl)
            scaling = fused.layers[index].scaling
            out, mass = decode_attention(query, keys, values, after, scaling, mass=wanted, impl=self.impl)
            cache.observe(index, query, mass)
            return out

        logits, x = fused.run(self._tokens[:batch], shape.head_dim, attend)
        at = slots.clamp(min=0)
        # a row that is not live puts back what is there: picking rows by a condition would read the device
        new = torch.where(live[:, None, None], seen[:, None, None], cache.positions[:, rows, :, at])
        cache.positions[:, rows, :, at] = new
        self._lengths[:batch] += live
        self._seen[:batch] += live
        return logits, x
