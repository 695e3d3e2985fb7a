"""Which accesses of a kernel's programs are ordered, and which race: vector clocks over its atomics.

A program's work between two of its atomics is a segment. An atomic that releases lets those that later acquire at the
same address see all of the program's segments before it; nothing else orders two programs of a launch.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

READ, WRITE, ATOMIC = range(3)
WORDS = {READ: "reads", WRITE: "writes", ATOMIC: "updates"}


@dataclass
class Segment:
    """What one program did between two atomics.

    Attributes:
        seen: how many segments of each other program are known to have ended before this one began.
        accesses: addresses by kind, one array per access.
    """

    program: int
    number: int
    seen: dict[int, int]
    accesses: tuple[list, list, list] = field(default_factory=lambda: ([], [], []))

    def follows(self, earlier: Segment) -> bool:
        """Whether an earlier segment, in the order of this execution, comes before this one in every execution."""
        return earlier.program == self.program or self.seen.get(earlier.program, 0) > earlier.number


class Accesses:
    """The accesses of one launch, program by program, in the order in which they happened."""

    def __init__(self):
        self.segments: list[Segment] = []
        self._released: defaultdict[int, dict[int, int]] = defaultdict(dict)

    @property
    def now(self) -> Segment:
        """The segment under way."""
        return self.segments[-1]

    def start(self, program: int) -> None:
        """The next program begins."""
        self.segments.append(Segment(program, 0, {}))

    def add(self, kind: int, addresses: np.ndarray) -> None:
        """The program reads or writes these addresses."""
        self.now.accesses[kind].append(addresses)

    def atomic(self, addresses: np.ndarray, acquires: bool, releases: bool) -> None:
        """The program updates these addresses atomically, and a new segment begins."""
        self.add(ATOMIC, addresses)
        ended, seen = self.now, dict(self.now.seen)
        for address in addresses.tolist():
            if acquires:
                _join(seen, self._released[address])
        for address in addresses.tolist():
            if releases:
                _join(self._released[address], {**seen, ended.program: ended.number + 1})
        self.segments.append(Segment(ended.program, ended.number + 1, seen))

    def races(self) -> list[tuple[str, Segment, Segment, int]]:
        """`(what happened, one segment, a later one, addresses)` of programs that access one address without order."""
        address, segment, kind = self._flat()
        if not address.size:
            return []
        order = np.lexsort((kind, segment, address))
        address, segment, kind = address[order], segment[order], kind[order]
        begin = np.flatnonzero(np.r_[True, address[1:] != address[:-1]])
        program = np.array([s.program for s in self.segments])[segment]
        shared = np.minimum.reduceat(program, begin) != np.maximum.reduceat(program, begin)
        changed = np.maximum.reduceat(kind, begin) > READ
        end = np.r_[begin[1:], address.size]
        patterns = Counter(
            tuple(zip(segment[a:b].tolist(), kind[a:b].tolist(), strict=True))
            for a, b in zip(begin[shared & changed], end[shared & changed], strict=True)
        )
        found: Counter[tuple[str, int, int]] = Counter()
        for pattern, times in patterns.items():
            for place in self._unordered(pattern):
                found[place] += times
        return [(what, self.segments[a], self.segments[b], n) for (what, a, b), n in found.items()]

    def _flat(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Every access once per segment: its address, the segment's index, the kind."""
        address, segment, kind = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for index, one in enumerate(self.segments):
            for k, parts in enumerate(one.accesses):
                if parts:
                    address.append(np.unique(np.concatenate(parts)))
                    segment.append(np.full(address[-1].size, index))
                    kind.append(np.full(address[-1].size, k))
        return np.concatenate(address), np.concatenate(segment), np.concatenate(kind)

    def _unordered(self, pattern: tuple[tuple[int, int], ...]) -> list[tuple[str, int, int]]:
        """Pairs of accesses to one address, in order of execution, of which neither must come first."""
        return [
            (f"{WORDS[before]} what another one {WORDS[after]}", a, b)
            for i, (a, before) in enumerate(pattern)
            for b, after in pattern[i + 1 :]
            if not (before == after == READ or before == after == ATOMIC)
            and not self.segments[b].follows(self.segments[a])
        ]


def _join(clock: dict[int, int], other: dict[int, int]) -> None:
    for program, ended in other.items():
        clock[program] = max(clock.get(program, 0), ended)
