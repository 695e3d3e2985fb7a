"""What a budget means under each protocol, per method; loads without torch, so a cell can be checked anywhere."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import KvreproError
from .budgets import Schedule

# share of the budget that the window takes, and ratio, when a caller names neither (R1-Qwen's, METHODS.md 4.2)
DEFAULT_WINDOW_SHARE = 0.4
DEFAULT_RATIO = 0.4
# the fair protocol evicts every so many tokens, as a share of the budget, when a caller does not say
DEFAULT_PERIOD_SHARE = 0.125

# (method, budget, window, ratio, evict_every) -> schedule; None stands for a default
Rule = Callable[[str, int, int | None, float | None, int | None], Schedule]


def fair_schedule(budget: int, window: int | None, evict_every: int | None) -> Schedule:
    """The budget is what remains after an eviction, pinned and window slots included, for every method."""
    if evict_every is None:
        evict_every = max(1, int(DEFAULT_PERIOD_SHARE * budget))
    return Schedule(budget, _window(budget, window), None, evict_every)


def dynts_rule(method: str, budget: int, window: int | None, ratio: float | None, evict_every: int | None) -> Schedule:
    """Exceeding the budget triggers; the window and a ratio of the other slots stay (METHODS.md 1.1)."""
    _refuse_period(method, evict_every)
    return Schedule(budget, _window(budget, window), DEFAULT_RATIO if ratio is None else ratio)


def window_only(extra: int = 0, *, fills_ratio: bool = True) -> Rule:
    """DynTS' window baselines: exceeding the budget triggers, the window and `extra` sinks stay (METHODS.md 2.2).

    With a ratio the window grows to what the other methods keep, as in the published recipes; without one, and
    where `fills_ratio` is off, it is the window that was given.
    """

    def rule(method: str, budget: int, window: int | None, ratio: float | None, evict_every: int | None) -> Schedule:
        _refuse_period(method, evict_every)
        window = _window(budget, window)
        if ratio is not None and fills_ratio:
            window = Schedule(budget, window, ratio).kept_tokens
        return Schedule(budget, window, kept=window + extra)

    return rule


def remains(window: int, every: int, *, window_is_period: bool = False) -> Rule:
    """The budget remains after an eviction; these are the paper's window and period (METHODS.md 2.3 to 2.19).

    A row evicts when it holds budget + period slots.

    Deviates: where the published code evicts on a clock (R-KV, SnapKV, G-KV, VaSE, LazyEviction, Expected Attention:
    every so many tokens, if the budget is exceeded), evictions come at the same rate, but up to one period later.
    """

    def rule(
        method: str, budget: int, given_window: int | None, ratio: float | None, evict_every: int | None
    ) -> Schedule:
        _refuse_ratio(method, budget, ratio)
        evict_every = every if evict_every is None else evict_every
        if given_window is None:
            given_window = evict_every if window_is_period else window
        return Schedule(budget, given_window, None, evict_every)

    return rule


def buffer_on_top(
    method: str, budget: int, window: int | None, ratio: float | None, evict_every: int | None
) -> Schedule:
    """Random Attention: the budget excludes a buffer of r recent tokens; r more come before an eviction (2.9)."""
    _refuse_ratio(method, budget, ratio)
    evict_every = 64 if evict_every is None else evict_every
    window = evict_every if window is None else window
    return Schedule(budget + window, window, None, evict_every)


def sinks_separators_window(
    method: str, budget: int, window: int | None, ratio: float | None, evict_every: int | None
) -> Schedule:
    """SepLLM: exceeding the budget triggers; 4 sinks, a quarter of it in separators and half of it as window stay."""
    _refuse_ratio(method, budget, ratio)
    _refuse_period(method, evict_every)
    window = budget // 2 if window is None else window
    return Schedule(budget, window, kept=min(4 + budget // 4 + window, budget))


def growing(method: str, budget: int, window: int | None, ratio: float | None, evict_every: int | None) -> Schedule:
    """RPC: the budget is the number of tokens between compressions; the cache grows by a ratio of it (2.15)."""
    if evict_every is not None:
        raise KvreproError(f"evict_every={evict_every}: {method} as published compresses every budget={budget} tokens")
    window = 32 if window is None else window
    # sizes of the first compression without a prompt; the method adds the prompt and the growth
    return Schedule(budget + window - 1, window, kept=window + int(budget * (0.25 if ratio is None else ratio) + 1e-9))


def _window(budget: int, window: int | None) -> int:
    return int(DEFAULT_WINDOW_SHARE * budget) if window is None else window


def _refuse_period(method: str, evict_every: int | None) -> None:
    if evict_every is not None:
        raise KvreproError(
            f"evict_every={evict_every}: {method} as published evicts when its budget is exceeded. Leave it out, or "
            "use protocol=fair, where the budget is what remains after an eviction"
        )


def _refuse_ratio(method: str, budget: int, ratio: float | None) -> None:
    if ratio is not None:
        raise KvreproError(
            f"ratio={ratio} and budget={budget} together: for {method} as published the budget alone says how many "
            "slots remain; leave ratio out"
        )
