"""Profiles: YAML files that name a set of cells and the figures drawn from them.

They lie under `nbs_params/`; that of a comparison beside its results.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import KvreproError, UnknownNameError, check_known
from ..files import read_yaml
from ..methods.learned.folder import LEARNED
from ..methods.own import absolute_method
from ..models.table import generation_defaults
from ..paths import profiles_folder, project_root, results_root, working_root
from .config import CellConfig
from .folder import CellFolder
from .throughput import Panel, ThroughputSettings

_KEYS = {"title", "notebook", "methods", "defaults", "panels", "paper_marks", "throughput"}
_REHEARSAL_KEYS = {"title", "rehearses", "scale_tokens", "set", "throughput"}
# a comparison's own profile, below the results: its name begins with the one and its file is called the other
COMPARISON, COMPARISON_FILE = "compare-", "profile.yaml"
# what `scale_tokens` shrinks
_TOKEN_FIELDS = ("budget", "window", "evict_every", "max_new_tokens")


@dataclass(frozen=True)
class Profile:
    """A named set of cells.

    Attributes:
        cells: every cell, panel by panel, `full` first.
        paper_marks: draw the values read off the paper's figures as hollow marks.
        rehearses: the profile whose cells these are, changed by `overrides` and meant for stand-in models.
        notebook: stem of the notebook in `notebooks/` that draws the profile's figures.
        throughput: how its panels are measured; None where they are not.
    """

    name: str
    title: str
    cells: tuple[CellConfig, ...]
    paper_marks: bool = False
    notebook: str = "budget_curves"
    rehearses: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    throughput: ThroughputSettings | None = None

    @property
    def folders(self) -> list[CellFolder]:
        """Where the results of each cell lie."""
        return [CellFolder.of(self.name, cell) for cell in self.cells]

    def cell(self, cell_id: str) -> CellConfig:
        """Look a cell up by id, or by an unambiguous end of it such as its hash.

        Raises:
            UnknownNameError: no cell, or more than one, fits.
        """
        found = [c for c in self.cells if c.cell_id == cell_id or c.cell_id.endswith("/" + cell_id)]
        if len(found) != 1:
            raise UnknownNameError(f"cell of profile {self.name}", cell_id, [c.cell_id for c in self.cells])
        return found[0]


def profile_names() -> list[str]:
    """Names of the YAML files in `nbs_params/`."""
    return sorted(p.stem for p in profiles_folder().glob("*.yaml"))


def comparison_names() -> list[str]:
    """Names of the comparisons whose profiles lie in the results."""
    return sorted(path.parent.name for path in results_root().glob(f"{COMPARISON}*/{COMPARISON_FILE}"))


def profile_file(name: str) -> Path:
    """The YAML file of a profile or of a comparison.

    Raises:
        UnknownNameError: no such profile.
    """
    if name in comparison_names():
        return results_root() / name / COMPARISON_FILE
    check_known("profile", [*profile_names(), *comparison_names()], name)
    return profiles_folder() / f"{name}.yaml"


def load_profile(name: str) -> Profile:
    """Read and validate a profile; every cell is built, so a mistake anywhere in it is found here.

    Raises:
        UnknownNameError: no such profile, or a key that does not belong.
        KvreproError: a cell that cannot exist; names the panel.
    """
    return parse_profile(name, profile_file(name))


def parse_profile(name: str, path: Path, content: dict[str, Any] | None = None) -> Profile:
    """Parse one YAML file, or what shall be written there, into a profile."""
    content = read_yaml(path, "a mapping with `panels`") if content is None else content
    if "rehearses" in content:
        return _rehearsal(name, path, content)
    check_known(f"key of {path.name}", _KEYS, *content)
    panels = content.get("panels")
    if not isinstance(panels, list) or not panels:
        raise KvreproError(
            f"{path}: expected a mapping with `panels`, a list of {{model, benchmark, budgets}}; given {panels!r}"
        )
    # by content: comparing each with all others takes its time where there are a thousand
    cells: dict[str, CellConfig] = {}
    methods: dict[tuple[str, ...], str] = {}
    for number, panel in enumerate(panels, start=1):
        try:
            for cell in panel_cells(content, panel):
                if cells.setdefault(json.dumps(cell.resolved(), sort_keys=True), cell) is not cell:
                    raise KvreproError(f"{cell.label} at budget {cell.budget} is listed twice")
                first = methods.setdefault((cell.model, cell.benchmark, cell.label), cell.method)
                if first != cell.method:
                    # tables could not tell them apart, and of equal files both would be one cell
                    raise KvreproError(f"{first} and {cell.method} are both {cell.label!r}: give one another `name`")
        except KvreproError as error:
            raise KvreproError(f"{path.name}, panel {number}: {error}") from error
    notebook = content.get("notebook", Profile.notebook)
    if not (project_root() / "notebooks" / f"{notebook}.ipynb").is_file():
        raise KvreproError(f"{path.name}: notebook={notebook!r}: there is no notebooks/{notebook}.ipynb")
    marks = bool(content.get("paper_marks", False))
    throughput = _throughput(path, content)
    profile = Profile(name, content.get("title", name), tuple(cells.values()), marks, notebook, throughput=throughput)
    # models whose panels would be one are found here too
    Panel.all_of(profile)
    return profile


def _throughput(path: Path, content: dict[str, Any], inherited: ThroughputSettings | None = None):
    """The settings that a profile asks for, over those of the profile that it rehearses."""
    if "throughput" not in content:
        return inherited
    values = content["throughput"]
    try:
        if inherited is not None and isinstance(values, dict):
            values = {**asdict(inherited), **values}
        return ThroughputSettings.from_mapping(values)
    except KvreproError as error:
        raise KvreproError(f"{path.name}: {error}") from error


def _rehearsal(name: str, path: Path, content: dict[str, Any]) -> Profile:
    """Every cell of another profile, its token counts scaled and some parameters set; nothing else differs.

    A method that must not be shrunk below its own sizes fails here, as any cell that cannot exist.
    """
    check_known(f"key of {path.name}", _REHEARSAL_KEYS, *content)
    scale, fixed = content.get("scale_tokens", 1.0), content.get("set") or {}
    if not isinstance(scale, int | float) or not 0 < scale <= 1 or not isinstance(fixed, dict):
        raise KvreproError(
            f"{path}: `scale_tokens` must lie in (0, 1] and `set` be a mapping, given {scale!r}, {fixed!r}"
        )
    if content["rehearses"] == name:
        raise KvreproError(f"{path}: a profile cannot rehearse itself")
    original = load_profile(content["rehearses"])
    cells = []
    for cell in original.cells:
        values = cell.resolved()
        shrunk = {key: max(1, round(scale * values[key])) for key in _TOKEN_FIELDS if values[key] is not None}
        try:
            cells.append(CellConfig.from_mapping({**values, **shrunk, **fixed}))
        except KvreproError as error:
            raise KvreproError(f"{path.name}, {cell.cell_id}: {error}") from error
    title = f"REHEARSAL of {original.name} on random stand-in models, no result"
    return Profile(
        name,
        content.get("title", title),
        tuple(cells),
        notebook=original.notebook,
        rehearses=original.name,
        overrides={"scale_tokens": scale, "set": fixed},
        throughput=_throughput(path, content, original.throughput),
    )


def panel_cells(content: Mapping[str, Any], panel: Any) -> list[CellConfig]:
    """`full` once and every other method at every budget; the panel's values go before the defaults.

    A file of a method is looked for from the checkout, or without one from the current folder, as every job does.

    Raises:
        KvreproError: a cell that cannot exist.
    """
    defaults = {} if content.get("defaults") is None else content["defaults"]
    for what, mapping in (("defaults", defaults), ("the panel", panel)):
        if not isinstance(mapping, dict):
            raise KvreproError(f"{what} must be a mapping of parameters, given {mapping!r}")
        for key, instead in (("budget", "budgets"), ("method", "methods")):
            if key in mapping:
                raise KvreproError(f"{what} may not hold `{key}`: list `{instead}` instead")
    methods = panel.get("methods", content.get("methods", ["full"]))
    if not isinstance(methods, list) or not methods:
        raise KvreproError(f"`methods` must be a list of names, given {methods!r}")
    stated = {**generation_defaults(panel.get("model", defaults.get("model"))), **defaults, **panel}
    values = {name: value for name, value in stated.items() if name != "methods"}
    budgets = values.pop("budgets", [])
    if not isinstance(budgets, list) or (not budgets and methods != ["full"]):
        raise KvreproError(f"`budgets` must be a list of tokens for {', '.join(map(str, methods))}, given {budgets!r}")
    cells = []
    for entry in methods:
        # a method with switches of its own is a mapping: {method: h2o, options: {pin_question: true}}
        own = entry if isinstance(entry, dict) else {"method": entry}
        if "method" not in own:
            raise KvreproError(f"an entry of `methods` must be a name or a mapping with `method`, given {entry!r}")
        method = own["method"]
        for budget in [None] if method == "full" else budgets:
            chosen = {**values, "budget": budget, **own}
            if isinstance(method, str):
                chosen["method"] = absolute_method(method, working_root())
            if method == "full":
                # shared defaults of the compressed cells mean nothing for the full cache
                chosen.update(dict.fromkeys(("window", "ratio", "evict_every", "protocol", "options", *LEARNED)))
            cells.append(CellConfig.from_mapping(chosen))
    return cells
