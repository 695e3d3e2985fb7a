"""When a row evicts and how much it keeps: what a run asks for, what the protocols and papers make of it, a schedule.

Loads without torch, so a cell can be checked anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import KvreproError

# what to do when pinned tokens do not fit beside the window
PIN_OVERFLOW = ("error", "keep_first")

# what a budget means: the same for all methods, or what each paper means by it
FAIR, AS_PUBLISHED = "fair", "as_published"
PROTOCOLS = (FAIR, AS_PUBLISHED)


def resolve_protocol(protocol: str | None, ratio: float | None) -> str:
    """The protocol of a run; where none is named, a ratio means DynTS' own. A ratio in the fair one is an error."""
    if protocol is None:
        return FAIR if ratio is None else AS_PUBLISHED
    if protocol not in PROTOCOLS:
        raise KvreproError(f"protocol={protocol!r}: known are {', '.join(PROTOCOLS)}")
    if protocol == FAIR and ratio is not None:
        raise KvreproError(
            f"ratio={ratio} in protocol {FAIR!r}: the budget alone says how many slots remain there. Leave ratio out "
            f"(evict_every sets how often), or use protocol={AS_PUBLISHED} for DynTS' rule"
        )
    return protocol


@dataclass(frozen=True)
class Schedule:
    """The budget of one run, in slots per row.

    Two published meanings of a budget exist, and a schedule is one of them:

    - with `ratio` (DynTS, docs/budgets.md#dynts-rule): a row may fill `budget` slots; the token after that triggers
      an eviction that keeps the last `window` slots and `floor(ratio * (n - window))` of the others. Peak
      `budget + 1`.
    - without `ratio` (R-KV, SnapKV, and the fair protocol): `budget` slots remain after an eviction, pinned and
      window slots included, and the next eviction comes `evict_every` tokens later. Peak `budget + evict_every`.

    `kept` overrides how many remain where a paper says neither (DynTS' window baseline keeps its window only).

    Deviates: the ratio is the decimal number that was written, so that 0.29 of 100 slots are 29. DynTS' code rounds
    down the binary product, 28.999999999999996, and keeps one slot less there.
    """

    budget: int
    window: int = 0
    ratio: float | None = None
    evict_every: int = 1
    kept: int | None = None

    def __post_init__(self) -> None:
        if self.budget < 1 or self.window < 0 or self.evict_every < 1:
            raise KvreproError(
                f"budget={self.budget}, window={self.window}, evict_every={self.evict_every}: budget and evict_every "
                "must be at least 1, window at least 0"
            )
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise KvreproError(f"ratio={self.ratio}: the share of candidates kept must lie in (0, 1]")
        if self.ratio is not None and self.evict_every != 1:
            raise KvreproError(
                f"ratio={self.ratio} and evict_every={self.evict_every}: with a ratio an eviction comes when the "
                "budget is exceeded; give one of the two"
            )
        if self.kept is not None and not self.window <= self.kept <= self.peak_tokens - 1:
            raise KvreproError(
                f"kept={self.kept}: an eviction keeps at least the window ({self.window}) and drops at least one of "
                f"{self.peak_tokens} slots"
            )
        if self.window >= self.budget and self.kept is None:
            raise KvreproError(
                f"budget={self.budget} leaves nothing to select: window={self.window} must be below it. "
                "Raise the budget or lower the window."
            )

    @property
    def peak_tokens(self) -> int:
        """The most slots a row ever holds, and its length when it evicts."""
        return self.budget + self.evict_every

    @property
    def kept_tokens(self) -> int:
        """Slots that remain right after an eviction."""
        if self.kept is not None:
            return self.kept
        if self.ratio is None:
            return self.budget
        # a ratio such as 0.29 is not exact in binary; the guard keeps floor(0.29 * 100) at 29
        return self.window + int(self.ratio * (self.peak_tokens - self.window) + 1e-9)

    @property
    def period_steps(self) -> int:
        """Decode steps between two evictions of a row."""
        return self.peak_tokens - self.kept_tokens


# share of the budget that the window takes, and ratio, when a caller names neither (R1-Qwen's)
DEFAULT_WINDOW_SHARE = 0.4
DEFAULT_RATIO = 0.4
# the fair protocol evicts every so many tokens, as a share of the budget, when a caller does not say
DEFAULT_PERIOD_SHARE = 0.125


class Sizes(NamedTuple):
    """What a run asks of a method: slots, slots, a share, tokens. None leaves a size to the protocol or the paper."""

    method: str
    budget: int
    window: int | None = None
    ratio: float | None = None
    evict_every: int | None = None

    @property
    def shared_window(self) -> int:
        """The window as given, or the share of the budget that it has by default."""
        return _filled(self.window, int(DEFAULT_WINDOW_SHARE * self.budget))

    def refuse_period(self) -> None:
        """Raise `KvreproError` where a period is given to a method whose budget alone says when it evicts."""
        if self.evict_every is not None:
            raise KvreproError(
                f"evict_every={self.evict_every}: {self.method} as published evicts when its budget says so, not "
                "after a period. Leave it out, or use protocol=fair, where the budget is what remains after an eviction"
            )

    def refuse_ratio(self) -> None:
        """Raise `KvreproError` where a ratio is given to a method whose budget is what remains."""
        if self.ratio is not None:
            raise KvreproError(
                f"ratio={self.ratio} and budget={self.budget} together: for {self.method} as published the budget "
                "alone says how many slots remain; leave ratio out"
            )


def _filled(given: int | None, default: int) -> int:
    return default if given is None else given


# what a paper means by a budget
Rule = Callable[[Sizes], Schedule]


def fair_rule(sizes: Sizes) -> Schedule:
    """The budget is what remains after an eviction, pinned and window slots included, for every method."""
    every = _filled(sizes.evict_every, max(1, int(DEFAULT_PERIOD_SHARE * sizes.budget)))
    return Schedule(sizes.budget, sizes.shared_window, None, every)


def dynts_rule(sizes: Sizes) -> Schedule:
    """Exceeding the budget triggers; the window and a ratio of the other slots stay (docs/budgets.md#dynts-rule)."""
    sizes.refuse_period()
    return Schedule(sizes.budget, sizes.shared_window, DEFAULT_RATIO if sizes.ratio is None else sizes.ratio)


def window_only(extra: int = 0, *, fills_ratio: bool = True) -> Rule:
    """DynTS' window baselines: exceeding the budget triggers, the window and `extra` sinks stay.

    With a ratio the window grows to what the other methods keep, as in the published recipes; without one, and
    where `fills_ratio` is off, it is the window that was given (docs/budgets.md#window-rule).
    """

    def rule(sizes: Sizes) -> Schedule:
        sizes.refuse_period()
        window = sizes.shared_window
        if sizes.ratio is not None and fills_ratio:
            window = Schedule(sizes.budget, window, sizes.ratio).kept_tokens
        return Schedule(sizes.budget, window, kept=window + extra)

    return rule


def remains(window: int | None, every: int) -> Rule:
    """The budget remains after an eviction; a paper's window (None: the period) and period
    (docs/budgets.md#remains-rule).

    A row evicts when it holds budget + period slots.

    Deviates: where the published code evicts on a clock (R-KV, SnapKV, G-KV, VaSE, LazyEviction, Expected Attention:
    every so many tokens, if the budget is exceeded), evictions come at the same rate, but up to one period later.
    """

    def rule(sizes: Sizes) -> Schedule:
        sizes.refuse_ratio()
        period = _filled(sizes.evict_every, every)
        return Schedule(sizes.budget, _filled(sizes.window, period if window is None else window), None, period)

    return rule


def buffer_on_top(sizes: Sizes) -> Schedule:
    """Random Attention: the budget excludes a buffer of r recent tokens; r more come before an eviction."""
    sizes.refuse_ratio()
    period = _filled(sizes.evict_every, 64)
    window = _filled(sizes.window, period)
    return Schedule(sizes.budget + window, window, None, period)


def sinks_separators_window(sizes: Sizes) -> Schedule:
    """SepLLM: exceeding the budget triggers; 4 sinks, a quarter of it in separators and half of it as window stay."""
    sizes.refuse_ratio()
    sizes.refuse_period()
    budget, window = sizes.budget, _filled(sizes.window, sizes.budget // 2)
    return Schedule(budget, window, kept=min(4 + budget // 4 + window, budget))


def growing(sizes: Sizes) -> Schedule:
    """RPC: the budget is the number of tokens between compressions; the cache grows by a ratio of it."""
    sizes.refuse_period()
    budget, window = sizes.budget, _filled(sizes.window, 32)
    # sizes of the first compression without a prompt; `RPCMethod` takes them apart again and adds prompt and growth
    share = int(budget * (0.25 if sizes.ratio is None else sizes.ratio) + 1e-9)
    return Schedule(budget + window - 1, window, kept=window + share)
