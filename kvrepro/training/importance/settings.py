"""Parameter files of the predictor chain: `nbs_params/predictor/*.yaml`, strict, one per model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...checks import changed_fields
from ...errors import KvreproError, UnknownNameError, check_known
from ...files import read_yaml
from ...models.table import MODELS, ModelEntry, model_entry
from ...paths import profiles_folder
from ..labelling import LabelOptions
from ..traces import TraceOptions
from .recipe import PredictorRecipe, make_recipe

_SECTIONS = ("traces", "labels", "training")


@dataclass(frozen=True)
class TrainingSettings:
    """What `kvrepro traces`, `labels` and `train` do for one model.

    Attributes:
        model: a name from `kvrepro list models`, or a folder.
        training: `recipe` (`best` or `published`) and settings that differ from it.

    Raises:
        KvreproError: no such model, or training settings that do not fit; found before hours of traces, not after.
    """

    model: str
    traces: TraceOptions = field(default_factory=TraceOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.recipe()

    @property
    def entry(self) -> ModelEntry:
        """The model's table row."""
        return model_entry(self.model)

    def recipe(self, hidden: int | None = None) -> PredictorRecipe:
        """The training recipe for a hidden state of this width."""
        changes = dict(self.training)
        return make_recipe(changes.pop("recipe", "best"), self.entry.name, hidden, **changes)

    def changed(self, settings: Mapping[str, Any]) -> TrainingSettings:
        """A copy with dotted settings changed, such as `traces.n_train`.

        Raises:
            UnknownNameError: a setting that does not exist.
            KvreproError: a value of the wrong type.
        """
        sections: dict[str, dict[str, Any]] = {name: {} for name in _SECTIONS}
        for name, value in settings.items():
            section, _, key = name.partition(".")
            if section not in _SECTIONS or not key:
                raise UnknownNameError("setting", name, [f"{s}.NAME" for s in _SECTIONS])
            sections[section][key] = value
        traces, labels = (changed_fields(name, getattr(self, name), sections[name]) for name in ("traces", "labels"))
        return replace(self, traces=traces, labels=labels, training={**self.training, **sections["training"]})


def _plan_files() -> dict[str, Path]:
    """The parameter files by name; profiles of the grid lie one level above."""
    return {path.stem: path for path in sorted((profiles_folder() / "predictor").glob("*.yaml"))}


def plan_names() -> list[str]:
    """Names of the parameter files."""
    return list(_plan_files())


def load_plan(name: str) -> TrainingSettings:
    """A plan by name, by path of a YAML file, or the defaults for any other model or folder.

    Raises:
        UnknownNameError: nothing by that name; an unknown key.
        KvreproError: the file cannot be read, or a value does not fit.
    """
    files = _plan_files()
    if name in files or name.endswith((".yaml", ".yml")):
        return read_plan(files.get(name, Path(name)))
    if name not in MODELS and not (Path(name).expanduser() / "config.json").is_file():
        raise UnknownNameError("model or plan", name, {*files, *MODELS, "a folder with config.json"})
    return TrainingSettings(name)


def read_plan(path: Path) -> TrainingSettings:
    """Read one YAML file; a relative name of problems is looked for here first, then beside the file."""
    expected = f"a mapping with `model`, and optionally {', '.join(_SECTIONS)}"
    content = read_yaml(path, expected)
    if "model" not in content:
        raise KvreproError(f"{path}: expected {expected}, given {', '.join(map(str, content)) or 'nothing'}")
    check_known(f"key of {path.name}", ("model", *_SECTIONS), *content)
    settings = {}
    for key, values in content.items():
        if key != "model" and not isinstance(values or {}, Mapping):
            raise KvreproError(f"{path.name}: {key}: expected a mapping of settings, given {values!r}")
        settings |= {} if key == "model" else {f"{key}.{name}": value for name, value in (values or {}).items()}
    try:
        plan = TrainingSettings(content["model"]).changed(settings)
    except KvreproError as error:
        raise KvreproError(f"{path.name}: {error}") from error
    problems = plan.traces.problems
    if problems is None or Path(problems).expanduser().is_file() or not (path.parent / problems).is_file():
        return plan
    return plan.changed({"traces.problems": str((path.parent / problems).resolve())})
