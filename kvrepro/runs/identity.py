"""What a cell is named after: a hash over all that changes its tokens or scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..benchmarks.table import rows_identity
from ..methods.learned.folder import LEARNED
from ..methods.table import method_entry, method_name
from ..models.identity import folder_fingerprint, model_identity, predictor_fingerprint
from ..models.table import ModelEntry, model_entry, predictor_source

# raised when a change of the engine changes tokens or scores, so that old cells are not taken for new ones
ENGINE_REVISION = 1


def cell_hash(values: Mapping[str, Any]) -> str:
    """First eight hex digits over a cell's identity.

    Every parameter; weights, files and row of the model; rows of the benchmark; the trained folder that the method
    reads; the method's revision, the file of a user's own, and the protocol's version.

    Args:
        values: all parameters of the cell by name.
    """
    entry, method = model_entry(values["model"]), method_entry(values["method"])
    identity = {
        # folders and files count by what is in them, not by where they are
        "config": {
            **values,
            "model": entry.name,
            "method": method_name(values["method"]),
            **dict.fromkeys(LEARNED),
        },
        "protocol": ENGINE_REVISION,
        "rows": rows_identity(values["benchmark"]),
        **model_identity(entry, reads_separators=method.reads_separators),
    }
    if method.content is not None:
        identity["method"] = method.content
    for name in method.learned:
        source = learned_source(entry, name, values[name])
        # a head may lie on the Hub, or nowhere
        is_head = name == "predictor"
        identity[name] = predictor_fingerprint(entry, source) if is_head else folder_fingerprint(Path(source))
    if (revision := method.revision_of(values["options"])) > 1:
        identity["revision"] = revision
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def learned_source(entry: ModelEntry, name: str, given: str | None) -> str | None:
    """Where a method finds what it reads beside the weights: the place that is given, else the model's own.

    Args:
        name: of `LEARNED`.

    Returns:
        A folder, or a Hub id; None for a model without an importance head.
    """
    if name == "predictor":
        return predictor_source(entry, given)
    return given or str(Path(entry.source) / LEARNED[name].folder)
