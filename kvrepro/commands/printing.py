"""Tables, sizes and times as commands print them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def print_table(rows: Iterable[Mapping[str, Any]] | Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Rows in columns below their names, numbers with or without a unit to the right.

    Args:
        rows: or groups of them by title; each stands below its own, and all share the columns.
    """
    if isinstance(rows, Mapping):
        groups = {
            title: [{**row, (first := next(iter(row))): f"  {row[first]}"} for row in rows[title]] for title in rows
        }
    else:
        groups = {"": list(rows)}
    every = [row for group in groups.values() for row in group]
    if not every:
        return
    columns = [_column(name, [str(row[name]) for row in every]) for name in every[0]]
    head, *lines = ("  ".join(line).rstrip() for line in zip(*columns, strict=True))
    print(head)
    for title, group in groups.items():
        if title:
            print(title)
        for _ in group:
            print(lines.pop(0))


def by_panel(frame: pd.DataFrame) -> dict[str, list[dict[str, str]]]:
    """The finished cells by model and benchmark, a line each; `summary.csv` has the other columns."""
    import pandas as pd

    panels: dict[str, list[dict[str, str]]] = {}
    for row in frame.astype({"budget_tokens": object}).itertuples():
        panels.setdefault(f"{row.model}, {row.benchmark}", []).append(
            {
                "method": row.label,
                "budget": "-" if pd.isna(row.budget_tokens) else f"{row.budget_tokens}",
                "Pass@1 (%)": f"{row.pass_at_1:.1f}",
                "95 %": f"{row.pass_at_1_lo:.1f} to {row.pass_at_1_hi:.1f}",
                "n x k": f"{row.n_problems} x {row.n_samples}",
                "tokens/s": "-" if pd.isna(row.decode_tps) else f"{row.decode_tps:,.0f}",
                "most slots": f"{row.kv_tokens_peak}",
                "evictions": f"{row.evictions}",
            }
        )
    return panels


def _column(name: str, texts: list[str]) -> list[str]:
    """Head and texts at one width."""
    width = max(map(len, (name, *texts)))
    is_number = all(text[:1].isdigit() or text == "-" for text in texts)
    return [text.rjust(width) if is_number else text.ljust(width) for text in (name, *texts)]


def size(n_bytes: int) -> str:
    """Bytes in the unit that reads best."""
    unit, one = size_unit(n_bytes)
    return f"{n_bytes / one:.1f} {unit}"


def size_unit(largest: int) -> tuple[str, int]:
    """MiB or GiB, for sizes up to this one, and its bytes."""
    return ("GiB", 2**30) if largest >= 2**30 else ("MiB", 2**20)


def time_unit(longest: float) -> tuple[str, int]:
    """s, min or h, for times up to this one in seconds, and its seconds."""
    return ("s", 1) if longest < 600 else ("min", 60) if longest < 5400 else ("h", 3600)
