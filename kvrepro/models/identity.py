"""What of a model changes a cell's tokens: its weights, the files around them, and its row of the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint_files import token_files_fingerprint
from .table import MODELS, ModelEntry, fetched_name, weights_fingerprint


def model_identity(entry: ModelEntry, *, reads_separators: bool = False) -> dict[str, Any]:
    """What identifies a model in a cell's hash.

    Args:
        reads_separators: the cell's method reads the row's separators.

    Returns:
        `weights`; for a folder also `files`, a hash over what else in it changes tokens; and `row`, the fields of the
        model's row that differ from the shipped row, or from those of a model without one. A Hub model has no `files`:
        its revision stands for them.
    """
    identity: dict[str, Any] = {"weights": weights_fingerprint(entry)}
    if entry.is_folder and fetched_name(entry) is None:
        identity["files"] = token_files_fingerprint(Path(entry.source))
    if row := _changed_row(entry, reads_separators):
        identity["row"] = row
    return identity


def _changed_row(entry: ModelEntry, reads_separators: bool) -> dict[str, Any]:
    plain = ModelEntry(entry.name, entry.title, entry.source, "auto", open_thought=None)
    base = MODELS.get(entry.name, plain)
    row: dict[str, Any] = {}
    if _thought(entry) != _thought(base):
        row["thought"] = _thought(entry)
    # the dtype of a changed shipped row is part of its `weights`
    if base is plain and entry.dtype != plain.dtype:
        row["dtype"] = entry.dtype
    if reads_separators and entry.separators != base.separators:
        row["separators"] = sorted(entry.separators or ())
    return row


def _thought(entry: ModelEntry) -> tuple[str | None, str, str] | None:
    """Opening tag, closing tag, and who opens; None for a model that does not think."""
    if entry.think_end is None:
        return None
    return entry.opening_tag, entry.think_end, entry.open_thought or "template"
