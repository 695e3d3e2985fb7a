"""The profile of one comparison: a few methods at equal budget, written beside its results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import yaml

from ..claims import is_held
from ..errors import KvreproError, check_known
from ..files import write_atomic
from ..methods.budgets import FAIR
from ..methods.learned.folder import LEARNED
from ..methods.own import absolute_method
from ..methods.table import FULL, check_method_name
from ..models.table import model_entry
from ..paths import results_root
from .config import CellConfig
from .folder import CellFolder
from .profiles import COMPARISON, COMPARISON_FILE, Profile, panel_cells, parse_profile

N_NAMED = 4  # methods in the name of a comparison's folder
# longer names are cut: a file system bounds them, and logs and pages are named after them
NAME_BYTES = 150
# what a method may have of its own; all else is equal, or their difference would be no method's
OWN_PARAMETERS = ("method", "options", "window", "evict_every", "pin_overflow", *LEARNED)
_DEFAULTS = {**{f.name: f.default for f in fields(CellConfig)}, "protocol": FAIR}


def write_comparison(
    methods: Sequence[str | Mapping[str, Any]],
    model: str,
    benchmark: str,
    budgets: Sequence[int],
    *,
    name: str | None = None,
    write: bool = True,
    **sizes: Any,
) -> Profile:
    """Write the profile of a comparison beside its results-to-be; a mistake is found before anything is written.

    Args:
        methods: names, classes as `FILE.py:CLASS` (from the current folder), or mappings as in a profile's `methods`;
            the first is the one that is compared with the others. The full cache comes with them.
        budgets: slots that remain after an eviction, of every method.
        name: of the profile; None makes one of methods, model, benchmark and budgets, and of a hash of what else
            differs from the defaults.
        write: False writes nothing; the profile is the one that would be.
        sizes: more parameters of its cells; None leaves one to its default.

    Raises:
        KvreproError: an unknown method, two that tables could not tell apart, one with a parameter that must be equal,
            a cell that cannot exist, fewer than two problems, or a grid runs under the name and was asked otherwise.
    """
    entries = [_absolute(method) for method in methods]
    content = {
        "title": "",
        "notebook": "comparison",
        "methods": [FULL, *(entry for entry in entries if entry not in (FULL, {"method": FULL}))],
        "defaults": {"protocol": FAIR, **{name: value for name, value in sizes.items() if value is not None}},
        "panels": [{"model": model_entry(model).reference, "benchmark": benchmark, "budgets": list(budgets)}],
    }
    if len(content["methods"]) == 1:
        raise KvreproError("only the full cache was named: name a method to compare with it, such as dynts")
    cells = panel_cells(content, content["panels"][0])
    if cells[0].n_problems == 1:
        raise KvreproError("n_problems=1: methods are compared problem by problem, which takes at least 2")
    named = [(cell.label, cell.budget) for cell in cells]
    if twice := [label for label, budget in named if named.count((label, budget)) > 1]:
        raise KvreproError(
            f"two of the methods, or budgets, are {twice[0]!r}: give a class another `name`, or drop one"
        )
    labels = list(dict.fromkeys(cell.label for cell in cells[1:]))
    content["title"] = f"{', '.join(labels)} on {cells[0].model.rsplit('/', 1)[-1]}, {benchmark}"
    name = name or _name(labels, content)
    if not all(CellFolder.of(name, cell).is_complete for cell in cells):
        from .resolution import resolve_cell

        for cell in cells:
            resolve_cell(cell)
    file, text = results_root() / name / COMPARISON_FILE, yaml.safe_dump(content, sort_keys=False)
    # what is as it was stays, or its figures would count as older
    if write and not (file.is_file() and file.read_text() == text):
        # the same name for a file of that class elsewhere, or for a notebook's comparison of other methods
        if any(map(is_held, (file.parent / ".grid").glob("*.lock"))):
            raise KvreproError(f"{name} is running and was asked otherwise: wait for it, then start again")
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, text)
    return parse_profile(name, file, yaml.safe_load(text))


def _absolute(entry: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """An entry of `methods` whose file is found from everywhere."""
    values = {"method": entry} if isinstance(entry, str) else dict(entry)
    if not isinstance(values.get("method"), str):
        raise KvreproError(f"a method must be a name, FILE.py:CLASS or a mapping with `method`, given {entry!r}")
    check_known("parameter of one method of a comparison", OWN_PARAMETERS, *values)
    values["method"] = absolute_method(values["method"])
    check_method_name(values["method"])
    return values["method"] if len(values) == 1 else values


def _name(labels: Sequence[str], content: Mapping[str, Any]) -> str:
    """`compare-<methods>-<model>-<benchmark>-<budgets>`, without what no folder can be called.

    A hash follows where that does not say all: so that of two comparisons neither takes the other's profile.
    """
    [panel] = content["panels"]
    more = [f"{len(labels) - N_NAMED}-more"] if len(labels) > N_NAMED else []
    model = panel["model"].rstrip("/").rsplit("/", 1)[-1]
    said = "-".join([*labels[:N_NAMED], *more, model, panel["benchmark"], *map(str, panel["budgets"])])
    name = COMPARISON + re.sub(r"[^\w.-]+", "-", said)
    short = name.encode()[:NAME_BYTES].decode(errors="ignore")
    # a class's file goes by its name, for the usual name stays readable
    entries = [entry if isinstance(entry, dict) else {} for entry in content["methods"]]
    own = [{key: entry[key] for key in entry.keys() - {"method", "options"}} for entry in entries]
    unsaid = [
        {key: value for key, value in content["defaults"].items() if value != _DEFAULTS.get(key)},
        own if any(own) else [],
        labels[N_NAMED:],
        panel["model"] if panel["model"] != model else "",
        name if name != short else "",
    ]
    if any(map(bool, unsaid)):
        short += "-" + hashlib.sha256(json.dumps(unsaid, sort_keys=True).encode()).hexdigest()[:6]
    return short
