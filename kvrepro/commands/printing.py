"""Tables, sizes and times as commands print them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows in columns below their names, numbers with or without a unit to the right."""
    rows = list(rows)
    if not rows:
        return
    columns = []
    for name in rows[0]:
        texts = [str(row[name]) for row in rows]
        width = max(map(len, (name, *texts)))
        is_number = all(text[:1].isdigit() or text == "-" for text in texts)
        columns.append([text.rjust(width) if is_number else text.ljust(width) for text in (name, *texts)])
    for line in zip(*columns, strict=True):
        print("  ".join(line).rstrip())


def size(n_bytes: int) -> str:
    """Bytes in MiB or GiB."""
    return f"{n_bytes / 2**30:.1f}G" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f}M"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that reads best; `-` where they are not known."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
