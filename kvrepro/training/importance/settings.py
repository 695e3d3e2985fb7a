"""Parameter files of the predictor chain: `nbs_params/predictor/*.yaml`, strict, one per model."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from ...errors import KvreproError, UnknownNameError
from ...models.table import MODELS, ModelEntry, model_entry
from ...paths import profiles_folder
from ..labelling import LabelOptions
from ..traces import TraceOptions
from .recipe import RECIPE_FIELDS, PredictorRecipe, make_recipe

_SECTIONS = ("model", "traces", "labels", "training")


@dataclass(frozen=True)
class TrainingSettings:
    """What `kvrepro traces`, `labels` and `train` do for one model.

    Attributes:
        model: a name from `kvrepro list models`, or a folder.
        training: `recipe` (`best` or `published`) and settings that differ from it.
    """

    model: str
    traces: TraceOptions = field(default_factory=TraceOptions)
    labels: LabelOptions = field(default_factory=LabelOptions)
    training: Mapping[str, Any] = field(default_factory=dict)

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
        plan = self
        for name, value in settings.items():
            section, _, key = name.partition(".")
            if section not in _SECTIONS[1:] or not key:
                raise UnknownNameError("setting", name, [f"{s}.NAME" for s in _SECTIONS[1:]])
            if section == "training":
                plan = replace(plan, training=_training({**plan.training, key: value}))
            else:
                plan = replace(plan, **{section: replace_options(getattr(plan, section), {key: value})})
        return plan


def plan_folder() -> Path:
    """Where the parameter files lie; profiles of the grid lie one level above."""
    return profiles_folder() / "predictor"


def plan_names() -> list[str]:
    """Names of the parameter files."""
    return sorted(p.stem for p in plan_folder().glob("*.yaml"))


def load_plan(name: str) -> TrainingSettings:
    """A plan by name, by path of a YAML file, or the defaults for any other model or folder.

    Raises:
        UnknownNameError: nothing by that name; an unknown key.
        KvreproError: the file cannot be read, or a value does not fit.
    """
    if name in plan_names():
        return read_plan(plan_folder() / f"{name}.yaml")
    if name.endswith((".yaml", ".yml")):
        return read_plan(Path(name))
    if name not in MODELS and not (Path(name).expanduser() / "config.json").is_file():
        raise UnknownNameError("model or plan", name, {*plan_names(), *MODELS, "a folder with config.json"})
    return TrainingSettings(name)


def read_plan(path: Path) -> TrainingSettings:
    """Read one YAML file."""
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise KvreproError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or "model" not in content:
        raise KvreproError(f"{path}: expected a mapping with `model`, and optionally {', '.join(_SECTIONS[1:])}")
    for key in content:
        if key not in _SECTIONS:
            raise UnknownNameError(f"key of {path.name}", key, _SECTIONS)
    try:
        plan = TrainingSettings(
            content["model"], replace_options(TraceOptions(), content.get("traces") or {}),
            replace_options(LabelOptions(), content.get("labels") or {}), _training(content.get("training") or {}),
        )  # fmt: skip
        _ = plan.entry, plan.recipe()
    except KvreproError as error:
        raise KvreproError(f"{path.name}: {error}") from error
    return _with_problems_beside(plan, path)


def _with_problems_beside(plan: TrainingSettings, path: Path) -> TrainingSettings:
    """The plan with its problems found: a relative name is looked for here first, then beside the parameter file."""
    given = plan.traces.problems
    if given is None or Path(given).expanduser().is_file() or not (path.parent / given).is_file():
        return plan
    return replace(plan, traces=replace(plan.traces, problems=str((path.parent / given).resolve())))


def _training(values: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(PredictorRecipe)
    for key, value in values.items():
        if key != "recipe" and key not in RECIPE_FIELDS:
            raise UnknownNameError("setting of training", key, ("recipe", *RECIPE_FIELDS))
        if key in hints:
            _check(f"training.{key}", value, hints[key])
    return dict(values)


def replace_options(options: Any, values: Mapping[str, Any]) -> Any:
    """A dataclass with values from YAML in it, unknown names and wrong types refused."""
    if not isinstance(values, Mapping):
        raise KvreproError(f"expected a mapping of settings, given {values!r}")
    names, hints = [f.name for f in fields(options)], get_type_hints(type(options))
    for name, value in values.items():
        if name not in names:
            raise UnknownNameError("setting", name, names)
        _check(name, value, hints[name])
    return replace(options, **{k: tuple(v) if isinstance(v, Sequence) and not isinstance(v, str) else v
                               for k, v in values.items()})  # fmt: skip


def _check(name: str, value: Any, expected: Any) -> None:
    """Raise unless a YAML value has the declared type; an integer passes as a float, a list as a tuple."""
    allowed = get_args(expected) if get_origin(expected) is types.UnionType else (expected,)
    if not any(_fits(value, get_origin(kind) or kind) for kind in allowed):
        wanted = " or ".join("null" if k is type(None) else getattr(k, "__name__", str(k)) for k in allowed)
        raise KvreproError(f"{name}={value!r} is {type(value).__name__}, expected {wanted}")


def _fits(value: Any, kind: type) -> bool:
    if kind is tuple:
        return isinstance(value, list | tuple)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    # bool is an int to Python, not to a reader of YAML
    return type(value) is kind
