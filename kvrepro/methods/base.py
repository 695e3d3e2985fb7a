"""The frame that every eviction method shares: a method scores, the base pins and selects, the cache compacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass
from typing import TYPE_CHECKING, ClassVar, dataclass_transform

import torch
from torch import Tensor

from ..cache.prefill import Prefill
from ..cache.shape import CacheShape
from ..cache.slots import GRANULARITIES, CompressedCache, KeepPlan
from ..errors import KvreproError
from .budgets import FAIR, PIN_OVERFLOW, Schedule
from .declaration import check_limits, declare
from .learned.folder import LEARNED
from .views import NEVER, EvictionView, StepView

if TYPE_CHECKING:
    from ..engine.requests import Request

# stands for a count of pinned slots where a score holds NaN: it reaches the host with the counts, at no wait of its own
NAN_SCORE = -1


class _Frozen:
    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"{name}={value!r}: a method does not change; create another one")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"{name}: a method does not change; create another one")


@dataclass_transform(frozen_default=True)
@dataclass(frozen=True)
class EvictionMethod(_Frozen):
    """A scoring rule under a budget.

    A subclass defines `score`, or `score_layers` to be asked for a block of layers at a time; if it carries state, also
    `prepare`, `admit` and `observe`. Everything else is switches. Every subclass becomes a frozen dataclass by itself:
    switches have types, `granularity: str = "head"`, class attributes need none.

    Deviates, for every method: a row evicts when it is full itself (DynTS' loop evicts the whole batch when its longest
    row is), padding does not exist, kept slots stay in the order of time (the originals of R-KV's family leave them in
    the order of their scores), ties go to the earlier slot, and a prompt longer than the budget is refused where some
    originals compress it while they read it.

    Attributes:
        schedule: when rows evict and how many slots stay; None for a cache that never evicts.
        granularity: `shared` (one kept set for all layers and heads), `layer` or `head` (per layer and KV head).
            A finer score is averaged, a coarser one is repeated.
        pin_question: prompt tokens are never evicted.
        pin_answer: the think-end tag and later tokens are never evicted.
        sinks: first tokens that are never evicted.
        pin_overflow: what to do when pinned tokens do not fit beside the window: `error`, or `keep_first`
            (question before answer, earlier before later), the defined form of DynTS' arbitrary tie.

    Class attributes, for the table of methods: `name` (default: the class's, in small letters), `source` (default:
    where the class is defined), `state` (what is carried per slot or row), `needs` (`predictor`, `calibration`,
    `judge`, `separators` or `trace`), `attention` (`none`; `queries`: keeps the last queries and recomputes at an
    eviction; `step`: attention mass of every step). `limits`: per option its known texts, its minimum, or the
    interval of its numbers, such as `[0, 1]`.

    Raises:
        KvreproError: when a subclass is defined, a class attribute of the wrong form; when one is built, a switch out
            of range, something it needs that is not there, or no score beside a schedule.
    """

    name: ClassVar[str] = "method"
    source: ClassVar[str] = "-"
    state: ClassVar[str] = "none"
    needs: ClassVar[tuple[str, ...]] = ()
    attention: ClassVar[str] = "none"
    # whether `cache.rotary`, the model's rotation, must be set
    needs_rotary: ClassVar[bool] = False
    # whether `observe` does nothing but work on the device, in shapes that never change, on what it keeps per slot: a
    # CUDA graph can then hold it. A class that defines `observe` says so itself
    observes_on_device: ClassVar[bool] = True
    # what to collect in a prefill: so many last queries, and whether attention is summed
    probe_sizes: ClassVar[tuple[int, bool]] = (0, False)
    limits: ClassVar[Mapping[str, int | str | tuple[str, ...]]] = {
        "granularity": GRANULARITIES,
        "sinks": 0,
        "pin_overflow": PIN_OVERFLOW,
    }

    schedule: Schedule | None = None
    granularity: str = "shared"
    pin_question: bool = False
    pin_answer: bool = False
    sinks: int = 0
    pin_overflow: str = "error"

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        # whoever defines `observe` says what it does, or nothing is taken for granted
        names = ("observes_on_device", "observe")
        speaks, observes = ([name in vars(c) for c in cls.__mro__].index(True) for name in names)
        if speaks > observes:
            cls.observes_on_device = False
        declare(cls)
        dataclass(frozen=True)(cls)
        # `_Frozen` refuses assignments: without these a decorator above the class, which is not needed, does no harm
        del cls.__setattr__, cls.__delattr__

    def __post_init__(self) -> None:
        if self.schedule is not None:
            self._check_scores()
        check_limits(self)
        for lacking in (LEARNED[need] for need in self.needs if need in LEARNED and getattr(self, need, self) is None):
            raise KvreproError(f"{self.name} needs the model's {lacking.what} and there is none: {lacking.remedy}")

    def prepare(self, cache: CompressedCache) -> None:
        """Declare per-slot or per-row state on a new cache."""

    def admit(self, cache: CompressedCache, row: int, prefill: Prefill, request: Request) -> None:
        """See a prompt that was just put into a row."""

    def observe(self, step: StepView) -> None:
        """See the step that just wrote one slot per row, before any eviction.

        With `observes_on_device = True` in the class it is recorded with the step as a CUDA graph: device work in fixed
        shapes, on slot state alone (docs/methods.md, "Your own method").
        """

    def score(self, view: EvictionView) -> Tensor:
        """Importance of every slot, `[L or 1, R, H or 1, S]`, higher is kept; real numbers without NaN.

        As it stands, what `score_layers` gives for each block of layers.
        """
        self._check_scores()
        return torch.cat([self.score_layers(view, layers) for layers in self.layer_blocks(view)])

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """Importance of every slot in some layers, `[l, R, H or 1, S]`."""
        raise NotImplementedError

    def layer_blocks(self, view: EvictionView) -> Iterator[slice]:
        """Layers that are scored together."""
        return view.layer_blocks(self.values_per_slot(view.cache.shape))

    def values_per_slot(self, shape: CacheShape) -> int:
        """Values that scoring takes per slot and layer at a time, if they may be more than the keys."""
        return 0

    def candidates(self, view: EvictionView) -> int:
        """Slots outside the local window, the first ones of a row."""
        return view.length - self.schedule.window

    def after_compact(self, cache: CompressedCache, plan: KeepPlan) -> None:
        """See a plan that was just carried out."""

    def peak_slots(self, n_prompt: int, evictions: int) -> int:
        """Length at which a row evicts; only for methods with a schedule."""
        return self.schedule.peak_tokens if self.schedule.period_steps else NEVER

    def kept_slots(self, view: EvictionView) -> Sequence[int] | Tensor:
        """Slots that each row keeps, window included, `[R]` integers; a tensor costs a wait for the device."""
        return [self.schedule.kept_tokens] * len(view.rows)

    def kept_tokens(self, protocol: str | None) -> int | None:
        """Slots that remain after an eviction; None where nothing is evicted or the method's own rule decides it."""
        has_rule = type(self).kept_slots is not EvictionMethod.kept_slots and protocol != FAIR
        return None if self.schedule is None or has_rule else self.schedule.kept_tokens

    def capacity_slots(self, longest_prompt: int, max_new_tokens: int) -> int:
        """Slots per row that a run needs."""
        longest = longest_prompt + max_new_tokens
        # a ratio of 1 keeps every candidate, so the row grows like the full cache
        is_full = self.schedule is None or not self.schedule.period_steps
        return longest if is_full else min(self.schedule.peak_tokens, longest)

    def check_prompt(self, n_prompt: int) -> None:
        """Raise `KvreproError` for a prompt beyond the budget, or more pinned tokens than fit beside the window."""
        if self.schedule is None:
            return
        s = self.schedule
        if n_prompt > s.budget:
            raise KvreproError(f"the prompt has {n_prompt} tokens, more than budget={s.budget}; raise the budget")
        # of a prompt shorter than the sinks, the reply's first tokens take the rest of their places
        pinned = max(n_prompt if self.pin_question else 0, self.sinks)
        room = s.kept_tokens - s.window
        if pinned > room and self.pin_overflow == "error":
            raise KvreproError(
                f"{pinned} pinned tokens do not fit: budget={s.budget} keeps {s.kept_tokens} slots at an eviction, "
                f"{s.window} of them the window, so {room} can be pinned. Raise budget or ratio, lower the window, "
                "or set pin_overflow=keep_first to drop the last pinned tokens"
            )

    def plans(self, view: EvictionView) -> tuple[list[KeepPlan], Tensor]:
        """One plan per number of kept slots, and `[R]` int64 how many pinned slots of each row did not fit.

        `NAN_SCORE` in place of a count: the row's score holds NaN and its plan means nothing. Raises `KvreproError`
        where the score is no tensor of the expected shape, type and device.
        """
        kept = self.kept_slots(view)
        kept = kept.tolist() if isinstance(kept, Tensor) else kept
        if len(kept) != len(view.host.rows):
            raise KvreproError(
                f"method {self.name!r}: kept_slots gave {len(kept)} numbers, expected one for each of "
                f"{len(view.host.rows)} rows"
            )
        kept = [min(n, view.length) for n in kept]
        sizes = sorted(set(kept))
        if len(sizes) == 1:
            plan, overflow = self.plan(view, sizes[0])
            return [plan], overflow
        plans, overflow = [], view.rows.new_zeros(view.cache.max_rows)
        for size in sizes:
            some = view.subset([i for i, n in enumerate(kept) if n == size])
            plan, overflow[some.rows] = self.plan(some, size)
            plans.append(plan)
        return plans, overflow[view.rows]

    def plan(self, view: EvictionView, kept_slots: int) -> tuple[KeepPlan, Tensor]:
        """Choose the slots that stay: the window, then pinned slots, then the best scores; ties go to the earlier slot.

        So a plan never depends on the device or on the batch. Returned as by `plans`; a count is of the layer and head
        with most.
        """
        window = min(self.schedule.window, kept_slots)
        candidates = view.length - window
        kept = min(kept_slots - window, candidates)
        scores = self._at_granularity(checked_score(self, view), view)[..., :candidates]
        pinned = self.pinned(view)[..., :candidates]
        # above every score, infinite ones too
        scores = scores.clamp(max=torch.finfo(scores.dtype).max).masked_fill(pinned, torch.inf)
        best = scores.sort(dim=-1, descending=True, stable=True).indices[..., :kept].sort(dim=-1).values
        recent = torch.arange(candidates, view.length, device=best.device).expand(*best.shape[:-1], window)
        overflow = (pinned.sum(-1) - kept).clamp(min=0).amax(dim=(0, 2))
        # looked at on the device, so that no eviction waits for it
        overflow = overflow.masked_fill(scores.isnan().any(-1).any(2).any(0), NAN_SCORE)
        return KeepPlan(view.rows, torch.cat([best, recent], dim=-1), view.host.rows), overflow

    def dropped_pins(self, counted: int, length: int) -> int:
        """What `plans` counted for a row of `length` slots, once it is on the host.

        Raises `KvreproError` for `NAN_SCORE`. A model that overflows is not the score's fault: not to be asked of a row
        whose own logits are not finite.
        """
        if counted == NAN_SCORE:
            raise KvreproError(
                f"method {self.name!r}: score gave NaN for a row of {length} slots; every slot needs a number "
                "(-inf is one). Often a division by 0, a softmax over nothing but -inf, or a look at other rows, which "
                "may have overflowed"
            )
        return counted

    def pinned(self, view: EvictionView) -> Tensor:
        """Bool of the shape of `view.positions`: slots that the switches protect."""
        pinned = view.positions < self.sinks
        if self.pin_question:
            pinned = pinned | view.is_question
        if self.pin_answer:
            pinned = pinned | view.is_answer
        return pinned

    def _check_scores(self) -> None:
        cls = type(self)
        if cls.score is EvictionMethod.score and cls.score_layers is EvictionMethod.score_layers:
            raise KvreproError(
                f"class {cls.__name__} has no score: define `def score(self, view)` that returns the importance of "
                "every slot, [layers or 1, rows, KV heads or 1, slots], higher is kept; for example "
                "`return view.positions.float()` keeps the most recent"
            )

    @staticmethod
    def _at_granularity(scores: Tensor, view: EvictionView) -> Tensor:
        """`[L or 1, R, H or 1, S]` averaged or repeated to the layers and heads of `view.positions`."""
        layers, _, heads, _ = view.positions.shape
        if layers == 1 and scores.shape[0] > 1:
            scores = scores.mean(0, keepdim=True)
        if heads == 1 and scores.shape[2] > 1:
            scores = scores.mean(2, keepdim=True)
        return scores.expand(layers, -1, heads, -1)


def checked_score(method: EvictionMethod, view: EvictionView) -> Tensor:
    """`method.score(view)`, float32 or float64; NaN is left to `plan`, which need not wait for the device.

    Raises `KvreproError`, which names the method, what it gave and what was expected.
    """
    scores = method.score(view)
    shape, rows, where = view.cache.shape, len(view.rows), view.rows.device
    expected = f"[{shape.layers} or 1, {rows}, {shape.kv_heads} or 1, {view.length}] (layers, rows, KV heads, slots)"
    sizes, given = ((shape.layers, 1), (rows,), (shape.kv_heads, 1), (view.length,)), None
    if not isinstance(scores, Tensor):
        given, expected = type(scores).__name__, f"a tensor {expected}"
    elif scores.ndim != 4 or any(n not in known for n, known in zip(scores.shape, sizes, strict=True)):
        given = f"the shape {list(scores.shape)}"
    elif scores.dtype == torch.bool or scores.is_complex() or scores.device != where:
        given, expected = f"{scores.dtype} on {scores.device}", f"real numbers on {where}"
    if given is not None:
        raise KvreproError(f"method {method.name!r}: score gave {given}, expected {expected}")
    # half precision would tie scores that differ, and so would float32 large integers
    return scores.double() if scores.dtype in (torch.float64, torch.int64) else scores.float()
