"""What goes into the engine and what comes out: requests, how tokens are drawn, completions, counters of a run.

Loads without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import KvreproError

OK, LENGTH_LIMIT, TRUNCATED, NAN_LOGITS = "ok", "length_limit", "truncated", "nan_logits"
# a reply that ended so has no answer, whatever its text holds
WITHOUT_ANSWER = (TRUNCATED, NAN_LOGITS)

ORDERS = ("hf", "dynts")


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn. `temperature=0` is greedy.

    `order="hf"` applies temperature, top-k, top-p (transformers); `order="dynts"` applies temperature,
    top-p, top-k (DynTS, `inference/base.py`): there the nucleus is measured on the full distribution, so it can be
    larger. Source: docs/benchmarks.md#sampling.
    """

    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20  # 0 = off
    order: str = "hf"

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise KvreproError(f"temperature={self.temperature}: must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise KvreproError(f"top_p={self.top_p}: must lie in (0, 1]; 1 switches it off")
        if self.top_k < 0:
            raise KvreproError(f"top_k={self.top_k}: must be 0 (off) or above")
        if self.order not in ORDERS:
            raise KvreproError(f"sampling_order={self.order!r}: known orders are {', '.join(ORDERS)}")


@dataclass(frozen=True)
class Request:
    """One sample to generate; (problem_id, sample_id) keys its noise.

    With `forced_ids`, which must not be empty, nothing is drawn: the reply is these tokens, fed one by one (teacher
    forcing).
    """

    problem_id: str
    sample_id: int
    prompt_ids: tuple[int, ...]
    forced_ids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.forced_ids is not None and not self.forced_ids:
            raise KvreproError(f"request {self.problem_id}/{self.sample_id}: forced_ids is empty; give tokens or None")


@dataclass
class Completion:
    """One finished sample.

    `status`: `ok` (ended by itself), `length_limit` (cut inside the answer), `truncated` (cut inside the thought) or
    `nan_logits` (the model gave logits that no token can be drawn from: NaN, +inf, or -inf alone). `token_ids` holds
    the reply, its end token included. `has_closed`: the closing tag came; `answer_start`: where the answer begins in
    `text` (see `models.tokens.reply_parts`), None for an open thought. `kept_positions` lists the positions that
    each eviction kept (first layer and head) where that was asked for, else nothing.
    """

    request: Request
    token_ids: list[int] = field(default_factory=list)
    status: str = ""
    text: str = ""
    answer_start: int | None = None
    has_closed: bool = False
    n_thinking_tokens: int = 0
    evictions: int = 0
    peak_tokens: int = 0
    pin_overflow_tokens: int = 0
    kept_positions: list[list[int]] = field(default_factory=list)

    @property
    def n_closed(self) -> int | None:
        """Tokens up to and including the closing tag; None while the thought is open."""
        return self.n_thinking_tokens if self.has_closed else None

    @property
    def n_answer_tokens(self) -> int:
        """Tokens after the think-end tag."""
        return len(self.token_ids) - self.n_thinking_tokens


@dataclass
class RunStats:
    """Time and size of one engine run; times in seconds of its clock, wall time unless another was asked for.

    Where one CUDA graph holds a whole step, `forward_s` covers scores and sampling too.
    """

    prefill_s: float = 0.0
    forward_s: float = 0.0
    score_s: float = 0.0
    evict_s: float = 0.0
    sample_s: float = 0.0
    host_s: float = 0.0
    steps: int = 0
    decoded_tokens: int = 0
    prefill_tokens: int = 0
    evictions: int = 0
    pin_overflow_tokens: int = 0
    kv_tokens_peak: int = 0
    kv_bytes: int = 0
    capacity_tokens: int = 0
    bytes_per_slot: int = 0
    batch_rows: int = 0
    live_rows_mean: float = 0.0

    @property
    def decode_s(self) -> float:
        """Everything but prefill: model, scoring, eviction, sampling and bookkeeping."""
        return self.forward_s + self.score_s + self.evict_s + self.sample_s + self.host_s

    @property
    def decode_tps(self) -> float:
        """New tokens of live rows per second of decoding, eviction and sampling included."""
        return self.decoded_tokens / self.decode_s if self.decode_s else 0.0

    @classmethod
    def combined(cls, sessions: Sequence[Mapping[str, Any]]) -> RunStats:
        """The stats of a run that was killed and went on: times and counts add up, sizes are the largest."""
        if not sessions:
            return cls()
        total = {}
        for f in fields(cls):
            values = [session[f.name] for session in sessions]
            is_size = f.name.startswith(("kv_", "capacity", "bytes_per", "batch_"))
            total[f.name] = max(values) if is_size else sum(values)
        weighted = sum(session["live_rows_mean"] * session["steps"] for session in sessions)
        total["live_rows_mean"] = weighted / max(1, total["steps"])
        return cls(**total)
