"""Upper bounds that look into the future: only for a trace that is known, never while generating."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..cache.prefill import Prefill
from ..cache.slots import CompressedCache
from ..errors import KvreproError
from .base import EvictionMethod
from .views import EvictionView

if TYPE_CHECKING:
    from ..engine.requests import Request

TRACE = "trace_index"
Key = tuple[str, int]


class OracleMethod(EvictionMethod):
    """What the oracles share: one tensor per (problem, sample), found again by the row's request."""

    needs = ("trace",)
    state = "the trace's attention"

    traces: Mapping[Key, Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.traces is None:
            raise KvreproError(
                f"{self.name} needs the attention of a finished trace, which does not exist while generating. Use it "
                "in teacher-forced mode: kvrepro.analysis.fidelity, whose oracle_traces(model, name, traces) gives "
                "create_method its traces=..., or the notebook `fidelity`"
            )

    def prepare(self, cache: CompressedCache) -> None:
        """Which trace a row follows."""
        cache.add_row_state(TRACE, dtype=torch.int64)

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: Request) -> None:
        """Find the row's trace."""
        key = (request.problem_id, request.sample_id)
        if key not in self.traces:
            raise KvreproError(f"{self.name} has no trace for problem {key[0]!r}, sample {key[1]}")
        cache.row_state[TRACE][row] = list(self.traces).index(key)

    def _traces(self, view: EvictionView) -> list[Tensor]:
        known = list(self.traces.values())
        return [known[i] for i in view.cache.row_state[TRACE][view.rows].tolist()]


class OracleAnswerMethod(OracleMethod):
    """DynTS with the true label instead of the predicted one: the answer's mean attention to each token.

    `traces` maps (problem, sample) to `[n]` labels of prompt and reply (`training.trace_attention.label_sequence`).

    Source: the labels of DynTS, arXiv 2601.18383; docs/predictor.md#labels.
    """

    name = "oracle_answer"
    source = "labels of arXiv 2601.18383"

    pin_question: bool = True
    pin_answer: bool = True

    def score(self, view: EvictionView) -> Tensor:
        """Labels at the slots' positions, shape of `positions`."""
        rows = [labels.to(view.positions.device)[view.positions[:, i]] for i, labels in enumerate(self._traces(view))]
        return torch.stack(rows, dim=1)


class OracleFutureMethod(OracleMethod):
    """The most attention that any block of queries to come pays to a slot, per layer and KV head.

    `traces` maps (problem, sample) to `[blocks, L, H, n]`, suffix maxima over blocks of the blocks' mean attention
    (`training.trace_attention.future_maxima`): entry `b` covers queries from position `b * block` on.

    Source: the supervision of ForesightKV, arXiv 2602.03203; docs/methods.md#oracle_future.
    """

    name = "oracle_future"
    source = "supervision of arXiv 2602.03203"

    granularity: str = "head"
    block: int = 16

    def score(self, view: EvictionView) -> Tensor:
        """`[L, R, H, S]`; 0 where the trace has no queries to come."""
        shape = view.cache.shape
        by_row = []
        for i, (maxima, seen) in enumerate(zip(self._traces(view), view.seen.tolist(), strict=True)):
            first = seen // self.block
            positions = view.positions[:, i].expand(shape.layers, shape.kv_heads, -1)
            if first >= len(maxima):
                by_row.append(torch.zeros(positions.shape, device=positions.device))
            else:
                by_row.append(maxima[first].to(positions.device).float().gather(-1, positions))
        return torch.stack(by_row, dim=1)
