"""The profile of one comparison: a few methods at equal budget, written beside its results."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from ..errors import KvreproError
from ..files import write_atomic
from ..methods.budgets import FAIR
from ..methods.own import absolute_method
from ..methods.table import FULL, check_method_name
from ..models.table import model_entry
from ..paths import results_root
from .folder import CellFolder
from .profiles import COMPARISON, COMPARISON_FILE, Profile, load_profile, panel_cells

N_NAMED = 4  # methods in the name of a comparison's folder


def write_comparison(
    methods: Sequence[str | Mapping[str, Any]],
    model: str,
    benchmark: str,
    budgets: Sequence[int],
    *,
    name: str | None = None,
    **sizes: Any,
) -> Profile:
    """Write the profile of a comparison beside its results-to-be; a mistake is found before anything is written.

    Args:
        methods: names, classes as `FILE.py:CLASS` (from the current folder), or mappings as in a profile's `methods`;
            the first is the one that is compared with the others. The full cache comes with them.
        budgets: slots that remain after an eviction, of every method.
        name: of the profile; None makes one of methods, model, benchmark and budgets.
        sizes: more parameters of its cells; None leaves one to its default.

    Raises:
        KvreproError: an unknown method, two that tables could not tell apart, or a cell that cannot exist.
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
    named = [(cell.label, cell.budget) for cell in cells]
    if twice := [label for label, budget in named if named.count((label, budget)) > 1]:
        raise KvreproError(
            f"two of the methods, or budgets, are {twice[0]!r}: give a class another `name`, or drop one"
        )
    labels = list(dict.fromkeys(cell.label for cell in cells[1:]))
    content["title"] = f"{', '.join(labels)} on {cells[0].model.rsplit('/', 1)[-1]}, {benchmark}"
    name = name or _name(labels, cells[0].model, benchmark, budgets)
    if not all(CellFolder.of(name, cell).is_complete for cell in cells):
        from .resolution import resolve_cell

        for cell in cells:
            resolve_cell(cell)
    file, text = results_root() / name / COMPARISON_FILE, yaml.safe_dump(content, sort_keys=False)
    # what is as it was stays, or its figures would count as older
    if not file.is_file() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, text)
    return load_profile(name)


def _absolute(entry: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """An entry of `methods` whose file is found from everywhere."""
    values = {"method": entry} if isinstance(entry, str) else dict(entry)
    if not isinstance(values.get("method"), str):
        raise KvreproError(f"a method must be a name, FILE.py:CLASS or a mapping with `method`, given {entry!r}")
    values["method"] = absolute_method(values["method"])
    check_method_name(values["method"])
    return values["method"] if len(values) == 1 else values


def _name(labels: Sequence[str], model: str, benchmark: str, budgets: Iterable[int]) -> str:
    """`compare-<methods>-<model>-<benchmark>-<budgets>`, without what no folder can be called."""
    more = [f"{len(labels) - N_NAMED}-more"] if len(labels) > N_NAMED else []
    parts = [*labels[:N_NAMED], *more, model.rstrip("/").rsplit("/", 1)[-1], benchmark, *map(str, budgets)]
    return COMPARISON + re.sub(r"[^\w.-]+", "-", "-".join(parts))
