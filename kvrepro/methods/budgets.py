"""When a row evicts and how much it keeps: the meaning of a budget, apart from any score."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import KvreproError

# what to do when pinned tokens do not fit beside the window
PIN_OVERFLOW = ("error", "keep_first")

# what a budget means: the same for all methods, or what each paper means by it
FAIR, AS_PUBLISHED = "fair", "as_published"
PROTOCOLS = (FAIR, AS_PUBLISHED)


def resolve_protocol(protocol: str | None, ratio: float | None) -> str:
    """The protocol of a run; where none is named, a ratio means DynTS' own protocol.

    Raises:
        KvreproError: an unknown protocol, or a ratio in the fair one.
    """
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

    - with `ratio` (DynTS, METHODS.md 1.1): a row may fill `budget` slots; the token after that triggers an
      eviction that keeps the last `window` slots and `floor(ratio * (n - window))` of the others. Peak
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
        if self.kept is not None and not self.window <= self.kept <= self.budget + self.evict_every - 1:
            raise KvreproError(
                f"kept={self.kept}: an eviction keeps at least the window ({self.window}) and drops at least one of "
                f"{self.budget + self.evict_every} slots"
            )
        if self.window >= self.budget and self.kept is None:
            raise KvreproError(
                f"budget={self.budget} leaves nothing to select: window={self.window} must be below it. "
                "Raise the budget or lower the window."
            )

    @property
    def slack_tokens(self) -> int:
        """Slots that a row may hold beyond `budget` at its peak."""
        return 1 if self.ratio is not None else self.evict_every

    @property
    def peak_tokens(self) -> int:
        """The most slots a row ever holds, and its length when it evicts."""
        return self.budget + self.slack_tokens

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
