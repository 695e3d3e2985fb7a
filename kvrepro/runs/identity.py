"""What a cell is named after: a hash over all that changes its tokens or scores."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..benchmarks.table import rows_identity
from ..methods.learned.folder import LEARNED
from ..methods.table import METHODS
from ..models.identity import folder_fingerprint, model_identity, predictor_fingerprint
from ..models.table import ModelEntry, model_entry

if TYPE_CHECKING:
    from .config import CellConfig

# raised when a change of the engine changes tokens or scores, so that old cells are not taken for new ones
ENGINE_REVISION = 1


def cell_hash(config: CellConfig) -> str:
    """First eight hex digits over a cell's identity.

    Every field; weights, files and row of the model; rows of the benchmark; the trained folder that the method
    reads; the method's revision and the protocol's version.
    """
    entry, method = model_entry(config.model), METHODS[config.method]
    # folders count by what is in them, not by where they are
    fields = {**config.resolved(), "model": entry.name, **dict.fromkeys(config.asset_folders())}
    identity = {
        "config": fields,
        "protocol": ENGINE_REVISION,
        "rows": rows_identity(config.benchmark),
        **model_identity(entry, reads_separators=method.reads_separators),
        **_trained_folder(config, entry),
    }
    if (revision := method.revision_of(config.options)) > 1:
        identity["revision"] = revision
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def _trained_folder(config: CellConfig, entry: ModelEntry) -> dict[str, Any]:
    """The field of the folder beside the weights that the method reads, with what identifies its content."""
    field = METHODS[config.method].learned
    if field is None:
        return {}
    given = getattr(config, field)
    if field == "predictor":
        # where a head comes from, the model table knows: a folder or the Hub
        return {field: predictor_fingerprint(entry, given)}
    return {field: folder_fingerprint(Path(given or Path(entry.source) / LEARNED[field].folder))}
