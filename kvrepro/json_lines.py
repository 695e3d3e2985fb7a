"""JSON lines: one object a line, and a line ends at a line feed only.

`str.splitlines` also ends lines at U+2028, U+0085 and form feeds, which JSON allows inside a text and which the rows of
published benchmarks hold. Files of other systems begin with a byte order mark and end lines with CR LF.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kvrepro.errors import KvreproError, RunError


def lines_of(content: bytes, name: str) -> list[str]:
    """The lines of a file in UTF-8, without its byte order mark; the last one is empty if the file ends a line.

    Raises: KvreproError where it is no such text.
    """
    try:
        return content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise KvreproError(f"{name} is no text in UTF-8 ({error}); save it as UTF-8") from error


def read_objects(
    path: Path, needed: Sequence[str] = (), damaged: type[KvreproError | RunError] = KvreproError
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not blank.

    Args:
        needed: keys that every object must have.
        damaged: raised for a line that is no JSON.

    Raises: KvreproError for a line that holds something else than an object with these keys; names file and line.
    """
    for number, line in enumerate(lines_of(path.read_bytes(), str(path)), start=1):
        if not line.strip():
            continue
        place = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise damaged(f"{place}: not JSON ({error.msg}); is the file damaged or cut off?") from error
        if not isinstance(row, dict):
            raise KvreproError(
                f"{place}: {type(row).__name__}, expected an object{' with ' if needed else ''}{', '.join(needed)}"
            )
        if missing := [key for key in needed if key not in row]:
            raise KvreproError(f"{place}: lacks {missing}; found {sorted(row)}")
        yield number, row
