"""What the runs of an unfinished cell have left in its working folder: replies, and what each run says of itself.

Every run writes files of its own, so that none waits for another or repairs what another one writes:
`run-PART-SESSION.json` with its facts, whole, when it starts and when it ends, and `completions-PART-SESSION.jsonl`
with a line per reply, which also holds the run's times so far: a killed run leaves them with its last reply. Texts stay
on the disk until they are graded. Loads without torch.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import RunError
from ..files import append_row, write_json
from .parts import Part

Key = tuple[str, int]  # problem and sample
# what a line says of the run and not of the reply
PROGRESS_FIELDS = ("stats", "captured", "observe_in_graph", "ended", "wall_s", "cuda_peak_bytes")
_AGAIN = "the line or the file; what was in it is then made again"
_SESSION_FIELDS = ("cell_id", "session", *PROGRESS_FIELDS)
# packed, one name a line would be as long as the functions below
REPLY_FIELDS = (
    "problem_id", "sample_id", "status", "text", "answer_start", "n_prompt_tokens", "n_thinking_tokens",
    "n_answer_tokens", "evictions", "peak_tokens", "pin_overflow_tokens",
)  # fmt: skip


class OwnFiles:
    """What one run writes: its facts, then its replies.

    Args:
        working: folder of the unfinished cell.
        part: which part of the cell the run makes; None: all of it.
        facts: what the run knows of itself when it starts.
    """

    def __init__(self, working: Path, cell_id: str, part: Part | None, facts: dict[str, Any]):
        self.session = uuid.uuid4().hex
        name = f"{part.name if part else 'whole'}-{self.session[:12]}"
        self._facts, self._replies = working / f"run-{name}.json", working / f"completions-{name}.jsonl"
        self.cell_id, self.shard = cell_id, str(part) if part else None
        self.facts = {"cell_id": cell_id, "session": self.session, "shard": self.shard, **facts}
        write_json(self._facts, self.facts)

    def append(self, reply: dict[str, Any], progress: dict[str, Any]) -> None:
        """Write a reply with the run's `PROGRESS_FIELDS` so far."""
        append_row(self._replies, {**reply, "cell_id": self.cell_id, "session": self.session, **progress})

    def end(self, progress: dict[str, Any]) -> None:
        """Write the run's last `PROGRESS_FIELDS`."""
        self.facts |= progress
        write_json(self._facts, self.facts)


class Place(NamedTuple):
    """Where a reply stands: file, byte at which its line begins, number of the line."""

    file: Path
    start: int
    line: int


@dataclass
class Replies:
    """What is there of a cell: the place of every reply, and its runs, the first one first.

    Attributes:
        runs: facts and last times of every run that has left a reply, with the number of its `replies`.
        twice: replies that more than one run has made; that of the run that started first counts.
    """

    places: dict[Key, Place] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    twice: int = 0

    @classmethod
    def found(cls, working: Path, cell_id: str) -> Replies:
        """Read all files of the folder; a last line that is still being written, or never was to its end, is left out.

        Raises:
            RunError: a file or a line that cannot be read or is not of this cell; names it and says what to do.
        """
        facts = {run["session"]: run for run in (_facts_of(path, cell_id) for path in working.glob("run-*.json"))}
        found, runs = cls(), {}
        for path in sorted(working.glob("completions*.jsonl"), key=lambda path: _started(path, facts)):
            for place, row in _rows(path, cell_id):
                # a session of an earlier version of the package has left no facts
                run = runs.setdefault(row["session"], {"session": row["session"], "shard": None, "replies": 0})
                run |= {name: row[name] for name in PROGRESS_FIELDS if name in row}
                key = (row["problem_id"], row["sample_id"])
                if key in found.places:
                    found.twice += 1
                else:
                    found.places[key] = place
                    run["replies"] += 1
        found.runs = [{**run, **facts.get(session, {})} for session, run in runs.items()]
        return found

    def check(self, keys: Iterable[Key]) -> None:
        """Make sure that every key has a reply and that there are no others.

        Raises:
            RunError: what is there is another set; names a reply, and the line of one that is too much.
        """
        keys = list(keys)
        if missing := self.missing(keys):
            raise RunError(f"{len(missing)} of {len(keys)} replies are missing, first {missing[0]}: run the cell again")
        if strange := sorted(set(self.places).difference(keys)):
            place = self.places[strange[0]]
            raise RunError(f"{place.file}, line {place.line}: the cell has no reply {strange[0]}: delete {_AGAIN}")

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the keys that have no reply."""
        return [key for key in keys if key not in self.places]

    def read(self, key: Key) -> dict[str, Any]:
        """A reply, without what its line says of the run."""
        place = self.places[key]
        with place.file.open("rb") as file:
            file.seek(place.start)
            row = json.loads(file.readline())
        return {name: value for name, value in row.items() if name not in _SESSION_FIELDS}


def remove_files(working: Path) -> None:
    """Remove what `Replies.found` reads."""
    for pattern in ("completions*.jsonl", "run-*.json"):
        for path in working.glob(pattern):
            path.unlink()


def _started(path: Path, facts: dict[str, dict[str, Any]]) -> tuple[str, str]:
    """When the run of a completions file started; files of earlier versions come first."""
    short = path.stem.rpartition("-")[2]
    return next((run["started"] for session, run in facts.items() if session.startswith(short)), ""), path.name


def _facts_of(path: Path, cell_id: str) -> dict[str, Any]:
    replies = path.with_name(path.name.replace("run-", "completions-", 1)).with_suffix(".jsonl").name
    remedy = f"delete it and {replies}, whose replies are then made again"
    try:
        facts = json.loads(path.read_bytes())
        found, _, _ = facts["cell_id"], facts["session"], facts["started"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} does not tell of a run ({error!r}): {remedy}") from error
    if found != cell_id:
        raise RunError(f"{path} is of cell {found}, not of {cell_id}: {remedy}")
    return facts


def _rows(path: Path, cell_id: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The lines of a completions file, one at a time: a text may have a hundred thousand characters."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n") and line.strip():
                yield Place(path, start, number), _checked(line, f"{path}, line {number}", cell_id)
            start += len(line)


def _checked(line: bytes, place: str, cell_id: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        problem = f"not JSON ({error})"
    else:
        needed = ("cell_id", "session", *REPLY_FIELDS)
        if not isinstance(row, dict):
            problem = f"{type(row).__name__}, expected an object"
        elif missing := [name for name in needed if name not in row]:
            problem = f"lacks {', '.join(missing)}"
        elif row["cell_id"] != cell_id:
            problem = f"a reply of cell {row['cell_id']}, not of {cell_id}"
        elif not (isinstance(row["problem_id"], str) and isinstance(row["sample_id"], int)):
            problem = f"problem_id={row['problem_id']!r}, sample_id={row['sample_id']!r}, expected text and a number"
        else:
            return row
    raise RunError(f"{place}: {problem}: delete {_AGAIN}")
