"""One decode step of the Llama layout on a CPU: the weights as the model holds them, the cache's slots as they lie.

Formulas are those of `kvrepro.engine.decoders.fused.FusedDecoder`, its torch twin. Activations and sums are float32
whatever the weights are. A row's result is the same bit for bit whatever other rows there are, and however many
threads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from ctypes import CDLL, byref, c_double, c_int64
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .structures import PRODUCTS, HeadArgs, LayerArgs, LinearArgs, Product, StepArgs, address

# parts of a step whose time can be asked for, in the order of the sources; `head` is the call of that name
PARTS = ("projections", "attention", "mlp")
DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}

CLOCKS = {"wall": "CLOCK_MONOTONIC", "cpu": "CLOCK_PROCESS_CPUTIME_ID"}


class Timer(Protocol):
    """What takes the seconds of a step's parts (`PARTS` and `head`), by `clock`: `wall` or `cpu`."""

    clock: str

    def add(self, name: str, seconds: float) -> None:
        """Add the time of a part."""


@dataclass(frozen=True)
class LayerWeights:
    """Weights of one layer; each product is a pair of weight `[out, in]` and bias, None where there is none."""

    input_norm: Tensor
    query: Product
    key: Product
    value: Product
    out: Product
    mlp_norm: Tensor
    gate: Product
    up: Product
    down: Product
    input_eps: float
    mlp_eps: float
    scaling: float


class DecodeStep:
    """The compiled step for one model.

    Args:
        library: what `library.load_library` returned.
        layers: the weights; they are read in place at every step and must stay where they are.
        norm, eps, head: of the end of the model; `head` as a pair of weight and bias.
        q_heads, kv_heads, head_dim: sizes of the attention.

    Raises:
        ValueError: a dtype or layout that the step does not serve; names it.
    """

    def __init__(
        self,
        library: CDLL,
        layers: Sequence[LayerWeights],
        norm: Tensor,
        eps: float,
        head: Product,
        q_heads: int,
        kv_heads: int,
        head_dim: int,
    ):
        self.dtype = layers[0].query[0].dtype
        # the addresses below are of these tensors
        self.weights = (tuple(layers), norm, head)
        _check(self.dtype, layers, norm, head)
        self.hidden, self.vocabulary = norm.shape[0], head[0].shape[0]
        self.q_heads, self.kv_heads, self.head_dim = q_heads, kv_heads, head_dim
        self.intermediate = layers[0].down[0].shape[1]
        widths = tuple(layers[0].query[0].shape[:1] + layers[0].key[0].shape[:1])
        if head_dim % 2 or q_heads % kv_heads or widths != (q_heads * head_dim, kv_heads * head_dim):
            raise ValueError(
                f"decode_step: {q_heads} query heads on {kv_heads} of {head_dim} channels do not fit projections to "
                f"{widths[0]} and {widths[1]}; heads must come in equal groups, with an even number of channels"
            )
        self._layers = (LayerArgs * len(layers))(
            *(
                LayerArgs(
                    address(w.input_norm),
                    address(w.mlp_norm),
                    *(LinearArgs.of(getattr(w, name)) for name in PRODUCTS),
                    w.input_eps,
                    w.mlp_eps,
                    w.scaling,
                )
                for w in layers
            )
        )
        self._norm, self._eps, self._head = address(norm), eps, LinearArgs.of(head)
        name = DTYPES[self.dtype]
        self._run_layers, self._run_head = (
            getattr(library, f"kvrepro_layers_{name}"),
            getattr(library, f"kvrepro_head_{name}"),
        )
        self._count_scratch = library.kvrepro_scratch_floats
        self._run_layers.restype = self._run_head.restype = None
        self._count_scratch.restype = c_int64
        self._scratch = torch.empty(0)

    def layers(
        self,
        x: Tensor,
        kv: Tensor,
        slots: Tensor,
        span: int,
        cos: Tensor,
        sin: Tensor,
        first: int = 0,
        end: int | None = None,
        queries: Tensor | None = None,
        mass: Tensor | None = None,
        timer: Timer | None = None,
    ) -> None:
        """Run some layers over the newest token of every row.

        Args:
            x: `[B, hidden]` float32, the residual stream; changed in place.
            kv: `[2, L, B or more, H, S, D]` in the weights' dtype; each row's K and V are written at `slots`.
            slots: `[B]` int64, slots that each row holds: where its token goes.
            span: `max(slots) + 1`.
            cos, sin: `[B, D]` float32.
            first, end: layers `first` to `end - 1`; default all.
            queries: `[layers done, B, Hq, D]` in the weights' dtype, receives the rotated queries; or None.
            mass: `[B, H, G, span]` float32, receives the attention of the one layer that is run; or None.
            timer: told the seconds of `PARTS`.

        Raises:
            ValueError: tensors of another dtype, shape or layout.
        """
        end = len(self._layers) if end is None else end
        rows = len(slots)
        _expect("x", x, (rows, self.hidden), torch.float32)
        for name, angle in (("cos", cos), ("sin", sin)):
            _expect(name, angle, (rows, self.head_dim), torch.float32)
        _expect("slots", slots, (rows,), torch.int64)
        if kv.dtype != self.dtype or kv.stride(-1) != 1 or not 0 < span <= kv.shape[-2] or rows > kv.shape[2]:
            raise ValueError(
                f"decode_step: kv is {kv.dtype} of shape {tuple(kv.shape)}, expected {self.dtype} with room for {rows} "
                f"rows of {span} slots and dense channels"
            )
        if queries is not None:
            _expect("queries", queries, (end - first, rows, self.q_heads, self.head_dim), self.dtype)
        if mass is not None:
            _expect("mass", mass, (rows, self.kv_heads, self.q_heads // self.kv_heads, span), torch.float32)
            if end - first != 1:
                raise ValueError(f"decode_step: mass is of one layer, asked of {end - first}")
        _, layer_stride, row_stride, head_stride, slot_stride, _ = kv.stride()
        step = StepArgs(
            self._layers,
            first,
            end,
            rows,
            span,
            torch.get_num_threads(),
            self.hidden,
            self.q_heads,
            self.kv_heads,
            self.head_dim,
            self.intermediate,
            kv[0].data_ptr(),
            kv[1].data_ptr(),
            layer_stride,
            row_stride,
            head_stride,
            slot_stride,
            slots.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            x.data_ptr(),
            None,
            None if queries is None else queries.data_ptr(),
            None if mass is None else mass.data_ptr(),
        )
        step.scratch = self._scratch_of(self._count_scratch(byref(step)))
        if timer is not None:
            step.seconds, step.clock = (c_double * len(PARTS))(), getattr(time, CLOCKS[timer.clock])
        self._run_layers(byref(step))
        if timer is not None:
            for part, seconds in zip(PARTS, step.seconds[: len(PARTS)], strict=True):
                timer.add(part, seconds)

    def head(self, x: Tensor, timer: Timer | None = None) -> tuple[Tensor, Tensor]:
        """Final norm and vocabulary.

        Args:
            x: `[B, hidden]` float32.
            timer: told the seconds, as `head`.

        Returns:
            Logits `[B, V]` float32, and hidden states after the norm `[B, hidden]` in the weights' dtype.
        """
        rows = len(x)
        _expect("x", x, (rows, self.hidden), torch.float32)
        hidden = torch.empty(rows, self.hidden, dtype=self.dtype)
        logits = torch.empty(rows, self.vocabulary)
        head = HeadArgs(
            self._norm,
            self._eps,
            self._head,
            rows,
            torch.get_num_threads(),
            x.data_ptr(),
            self._scratch_of(rows * self.hidden),
            hidden.data_ptr(),
            logits.data_ptr(),
        )
        if timer is None:
            self._run_head(byref(head))
            return logits, hidden
        clock = getattr(time, CLOCKS[timer.clock])
        started = time.clock_gettime(clock)
        self._run_head(byref(head))
        timer.add("head", time.clock_gettime(clock) - started)
        return logits, hidden

    def _scratch_of(self, floats: int) -> int:
        if self._scratch.numel() < floats:
            # half as much again, so that a growing cache does not ask anew at every chunk of slots
            self._scratch = torch.empty(floats + floats // 2)
        return self._scratch.data_ptr()


def _check(dtype: torch.dtype, layers: Sequence[LayerWeights], norm: Tensor, head: Product) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"decode_step: weights are {dtype}; it serves {', '.join(map(str, DTYPES))}")
    tensors = [norm, *head]
    for w in layers:
        tensors += [w.input_norm, w.mlp_norm, *(t for name in PRODUCTS for t in getattr(w, name))]
    for t in tensors:
        if t is not None and (t.dtype != dtype or not t.is_contiguous() or t.device.type != "cpu"):
            raise ValueError(
                f"decode_step: a weight of shape {tuple(t.shape)} is {t.dtype} on {t.device} with strides "
                f"{t.stride()}; all must be contiguous {dtype} on the CPU"
            )


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(tensor.shape) != shape or tensor.dtype != dtype or not tensor.is_contiguous():
        raise ValueError(
            f"decode_step: {name} is {tensor.dtype} of shape {tuple(tensor.shape)} with strides {tensor.stride()}; "
            f"expected contiguous {dtype} of shape {shape}"
        )
