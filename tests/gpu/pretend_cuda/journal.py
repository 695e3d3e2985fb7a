"""What happened on the pretend device, by section of the run: counted, with the line of the package that asked."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# the host waits for all work queued so far
BLOCKING = ("host read", "blocking upload", "blocking download", "device wait", "stream wait")
_PACKAGES = ("kvrepro", "kernels")


@dataclass(frozen=True)
class Event:
    """One kind of thing that happened: `kind` (one of `BLOCKING`, or `launch`, `replay`, `event wait`, `async upload`,
    ...), `what` in detail, and `place`, the line of the package (`file:line function`).
    """

    section: str
    kind: str
    what: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.what})" + (f" at {self.place}" if self.place else "")


class Section:
    """A part of the run; `name` may be changed until it ends."""

    def __init__(self, name: str):
        self.name = name
        self.counts: Counter[tuple[str, str, str]] = Counter()


class Journal:
    """Counts of events in named sections; what happens in a section inside another one belongs to the inner one."""

    def __init__(self):
        self.counts: Counter[Event] = Counter()
        self.visits: Counter[str] = Counter()
        self._open = [Section("")]

    @contextmanager
    def section(self, name: str) -> Iterator[Section]:
        """Put what happens in the block under `name`, or what the section's name is at the end."""
        self._open.append(Section(name))
        try:
            yield self._open[-1]
        finally:
            done = self._open.pop()
            self.visits[done.name] += 1
            self._settle(done)

    def note(self, kind: str, what: str = "", place: bool = True) -> None:
        """Count an event; `place` off where its line does not matter, which saves time."""
        self._open[-1].counts[kind, what, _place() if place else ""] += 1

    def _settle(self, section: Section) -> None:
        for event, n in section.counts.items():
            self.counts[Event(section.name, *event)] += n
        section.counts.clear()

    def found(self, section: str, *kinds: str) -> dict[str, int]:
        """Events of these kinds in a section, as text, with their counts; outside of all it is `""`."""
        self._settle(self._open[0])
        return {str(e): n for e, n in self.counts.items() if e.section == section and e.kind in kinds}

    def total(self, section: str, *kinds: str) -> int:
        """How many events of these kinds a section saw."""
        return sum(self.found(section, *kinds).values())


def _place() -> str:
    """The innermost line of the package on the stack."""
    frame = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if any(part in _PACKAGES for part in path.parts) and "tests" not in path.parts:
            return f"{path.name}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return "?"
