"""The only code that writes and reads files of results: whole or not at all, one JSON object a line.

A line ends at a line feed only: `str.splitlines` also ends lines at U+2028, U+0085 and form feeds, which JSON allows
inside a text and which the rows of published benchmarks hold. Files of other systems begin with a byte order mark and
end lines with CR LF.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from .errors import KvreproError, RunError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path`, to be written inside the block, that takes its place when the block ends well."""
    # pids of two hosts may be alike
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield beside
        with beside.open("ab") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_atomic(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as beside:
        beside.write_text(text)


def write_json(path: Path, content: Any) -> None:
    """Write one JSON value for people to read, whole or not at all."""
    write_atomic(path, json.dumps(content, indent=1) + "\n")


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines, whole or not at all."""
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_row(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line and hand it to the system at once."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
        file.flush()


def rows_so_far(path: Path) -> list[dict[str, Any]]:
    """Rows that a killed run left behind; a line that it was cut in is dropped, in the file too, and made again."""
    if not path.is_file():
        return []
    rows = list(read_rows(path, drop_cut_tail=True))
    write_rows(path, rows)
    return rows


def read_rows(path: Path, *, drop_cut_tail: bool = False) -> Iterator[dict[str, Any]]:
    """Read JSON lines that a run wrote.

    Args:
        drop_cut_tail: accept a last line that was cut off by a kill; it is left out.

    Raises:
        RunError: a line that cannot be read; names file and line.
    """
    remedy = f"delete {path.parent} and run the cell again"
    try:
        for _, row in read_objects(path, drop_cut_tail=drop_cut_tail):
            yield row
    except KvreproError as error:
        raise RunError(f"{error}: {remedy}") from error
    if not drop_cut_tail and path.read_bytes()[-1:] not in (b"", b"\n"):
        raise RunError(f"{path} ends in the middle of a line: {remedy}")


def read_objects(
    path: Path,
    needed: Sequence[str] = (),
    damaged: type[KvreproError | RunError] = KvreproError,
    *,
    drop_cut_tail: bool = False,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not blank.

    Args:
        needed: keys that every object must have.
        damaged: raised for a line that is no JSON.
        drop_cut_tail: leave out a last line that is no JSON.

    Raises: KvreproError for a line that holds something else than an object with these keys; names file and line.
    """
    lines = lines_of(path.read_bytes(), str(path))
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if drop_cut_tail and number == len(lines):
                return
            raise damaged(f"{place}: not JSON ({error.msg}); is the file damaged or cut off?") from error
        if not isinstance(row, dict):
            expected = f"an object with {', '.join(needed)}" if needed else "an object"
            raise KvreproError(f"{place}: {type(row).__name__}, expected {expected}")
        if missing := [key for key in needed if key not in row]:
            raise KvreproError(f"{place}: lacks {missing}; found {sorted(row)}")
        yield number, row


def read_yaml(path: Path, expected: str = "a mapping") -> dict[str, Any]:
    """The mapping in a YAML file.

    Args:
        expected: what it should be, for the message.

    Raises:
        KvreproError: no such file, not YAML, or something else than a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise KvreproError(f"{path}: {error.strerror}; expected a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise KvreproError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise KvreproError(f"{path}: expected {expected}, given {type(content).__name__}")
    return content


def lines_of(content: bytes, name: str) -> list[str]:
    """The lines of a file in UTF-8, without its byte order mark; the last one is empty if the file ends a line.

    Raises: KvreproError where it is no such text.
    """
    try:
        return content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise KvreproError(f"{name} is no text in UTF-8 ({error}); save it as UTF-8") from error


@dataclass(frozen=True)
class ResultFolder:
    """A folder of results, and the one beside it where an unfinished run works until its content is published."""

    path: Path

    @property
    def partial(self) -> Path:
        """Where a run works until it is complete."""
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def lock(self) -> Path:
        """The claim of an unfinished run; beside its folder, which is removed while the claim is held."""
        return self.path.with_name(f".{self.path.name}.lock")
