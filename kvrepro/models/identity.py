"""What of a model changes a cell's tokens: its weights, the files around them, and its row of the table."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from .failures import INDEX
from .fetching import FETCHED_MODELS
from .table import HUB_ID, MODELS, ModelEntry, fetched_name, predictor_source

# what transformers reads beside the weights; vocabularies also come as plain text
_TOKEN_FILES = ("*.json", "*.jinja", "additional_chat_templates/*.jinja", "*.model", "*.tiktoken")
_TOKEN_FILES += ("merges.txt", "vocab.txt")
# JSON that no library reads to make tokens, so no file of identity: where the shards are, and reports of a training
_REPORTS = {INDEX, "training.json", "scores.json", "fetched.json", "trainer_state.json"}
_REPORTS |= {"all_results.json", "train_results.json", "eval_results.json"}


def model_identity(entry: ModelEntry, *, reads_separators: bool = False) -> dict[str, Any]:
    """What identifies a model in a cell's hash; `row.separators` only where the method reads them (`reads_separators`).

    Returns `weights`; for a folder also `files`, a hash over what else in it changes tokens; and `row`, the fields of
    the model's row that differ from the shipped row, or from those of a model without one. A Hub model has no `files`:
    its revision stands for them.
    """
    identity: dict[str, Any] = {"weights": weights_fingerprint(entry)}
    if entry.is_folder and fetched_name(entry) is None:
        identity["files"] = folder_fingerprint(Path(entry.source), _TOKEN_FILES)
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


def weights_fingerprint(entry: ModelEntry) -> str:
    """What identifies the weights in a cell's hash.

    A hash over a local folder's weights, tokenizer and configuration; `hub:id@revision` for the Hub; the hash of the
    published file for a fetched model, so that a cell has the same name before and after the download.
    """
    row = MODELS.get(entry.name)
    changed = "" if entry.quantisation is None else f"+{entry.quantisation}"
    if row is not None and entry.dtype != row.dtype:
        changed += f"+{entry.dtype}"
    if (name := fetched_name(entry)) is not None:
        return FETCHED_MODELS[name].identity + changed
    if not entry.is_folder:
        return f"hub:{entry.source}@{entry.revision or 'main'}{changed}"
    return folder_fingerprint(Path(entry.source), ("*.safetensors", "tokenizer.json", "config.json")) + changed


def predictor_fingerprint(entry: ModelEntry, folder: str | None = None) -> str | None:
    """SHA-256 over the head's weights, `hub:id` for one on the Hub, None where there is none."""
    source = predictor_source(entry, folder)
    if source is None or Path(source).is_dir():
        return None if source is None else folder_fingerprint(Path(source))
    return f"hub:{source}" if HUB_ID.fullmatch(source.partition("@")[0]) else None


def absolute_source(text: str) -> str:
    """A folder as an absolute path, so that it means the same everywhere; a Hub id stays as it is."""
    path = Path(text).expanduser()
    return text if HUB_ID.fullmatch(text.partition("@")[0]) and not path.exists() else str(path.resolve())


def folder_fingerprint(folder: Path, patterns: tuple[str, ...] = ("*.safetensors",)) -> str:
    """SHA-256 over names and contents of the matching files but reports; read again only when one has changed."""
    files = sorted({f for pattern in patterns for f in folder.glob(pattern) if f.name not in _REPORTS})
    return _hash_of(folder, tuple((f.relative_to(folder), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@lru_cache(maxsize=64)
def _hash_of(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in files:
        digest.update(name.as_posix().encode())
        with (folder / name).open("rb") as file:
            # a block at a time: weights may be larger than memory
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
