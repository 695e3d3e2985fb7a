"""The configuration of one cell: flat, frozen and strict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, get_type_hints

from ..benchmarks.table import benchmark_entry, check_prompt_style
from ..checks import as_mapping, typed
from ..engine.requests import SamplingConfig
from ..errors import KvreproError, check_known
from ..methods.budgets import PIN_OVERFLOW, resolve_protocol
from ..methods.learned.folder import LEARNED
from ..methods.own import absolute_method
from ..methods.table import cell_options, check_method_name, create_schedule, idle_sizes, method_name
from ..models.identity import absolute_source
from ..models.table import model_entry
from .identity import cell_hash

# short names of the switches that tables compare
_SWITCH_LABELS = {
    ("pin_question", True): "question",
    ("pin_answer", True): "answer",
    ("pin_question", False): "no question",
}


@dataclass(frozen=True)
class CellConfig:
    """One model on one benchmark with one method at one budget. Every field changes a number.

    Attributes:
        method: a name, or a class of your own as `FILE.py:CLASS`, whose file is executed when the cell runs.
        budget: KV slots per row, tokens; None for `full`.
        window: local window, tokens; None takes the method's default share of the budget.
        ratio: share of candidates kept at an eviction (DynTS); None takes the default.
        evict_every: tokens between evictions, where the budget is what remains after one; excludes `ratio`.
        protocol: what a budget means: `fair` (what remains after an eviction, for every method) or `as_published`;
            None takes `as_published` where a ratio is given and `fair` elsewhere. None for `full`.
        pin_overflow: `error` or `keep_first`, when pinned tokens do not fit.
        options: the method's own switches and options, for example `{pin_question: true, granularity: head}`, or
            their JSON text.
        n_problems: the first so many problems; None for all.
        batch_rows: rows decoded together; changes throughput, and tokens only where the manifest says
            `batch_invariant: false`.
        predictor, calibration, judge: folder of what a method needs beside the weights; None takes the model's own.
        prompt_style: `dynts` (the bare problem) or `deepseek` (asks for steps and a box), for real benchmarks.
    """

    model: str
    benchmark: str
    method: str = "full"
    budget: int | None = None
    window: int | None = None
    ratio: float | None = None
    evict_every: int | None = None
    protocol: str | None = None
    pin_overflow: str = "error"
    options: dict | None = None
    n_problems: int | None = None
    n_samples: int = 1
    max_new_tokens: int = 1024
    temperature: float = 0.6
    top_p: float = 0.95
    top_k: int = 20
    sampling_order: str = "hf"
    seed: int = 42
    batch_rows: int = 64
    predictor: str | None = None
    calibration: str | None = None
    judge: str | None = None
    prompt_style: str = "dynts"

    def __post_init__(self) -> None:
        # a notebook calls the constructor itself, so types are checked here; 1 and 1.0 must not differ in their hash
        self._set("options", as_mapping("parameter options", self.options) or None)
        for name, expected in get_type_hints(CellConfig).items():
            self._set(name, typed(f"parameter {name}", getattr(self, name), expected))
        # a folder or a Hub id: notebooks run elsewhere, so a path must not depend on where the caller stands
        self._set("model", model_entry(self.model).reference)
        self._set("method", absolute_method(self.method))
        for name in LEARNED:
            if (folder := getattr(self, name)) is not None:
                self._set(name, absolute_source(folder))
        known = benchmark_entry(self.benchmark).n_problems
        check_prompt_style(self.benchmark, self.prompt_style)
        if self.n_problems is not None and self.n_problems > known:
            raise KvreproError(f"n_problems={self.n_problems}: {self.benchmark} has {known}")
        for name in ("n_problems", "n_samples", "max_new_tokens", "batch_rows"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KvreproError(f"{name}={value}: must be at least 1")
        _ = self.sampling
        self._check_method()
        if self.method != "full":
            self._set("protocol", resolve_protocol(self.protocol, self.ratio))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_method(self) -> None:
        """Build the schedule once, so that sizes that do not fit fail before a model is loaded; type the options."""
        check_method_name(self.method)
        create_schedule(self.method_name, self.budget, self.window, self.ratio, self.evict_every, self.protocol)
        for name, value in (self.options or {}).items():
            if name in FIELD_NAMES:
                raise KvreproError(f"options may not hold {name}={value!r}: it is a parameter of the cell itself")
        check_known("pin_overflow", PIN_OVERFLOW, self.pin_overflow)
        if self.options:
            self._set("options", cell_options(self.method, self.options))

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> CellConfig:
        """Build from parameters as they come from YAML, papermill or a command line.

        Raises:
            KvreproError: an unknown name (all names are listed), a value of the wrong type or out of range.
        """
        check_known("parameter", FIELD_NAMES, *values)
        for name in ("model", "benchmark"):
            if name not in values:
                raise KvreproError(f"parameter {name!r} is missing; give at least model and benchmark")
        return cls(**values)

    @classmethod
    def fitted(cls, **values: Any) -> tuple[CellConfig, dict[str, Any]]:
        """A cell without the sizes that its method does not have, for a caller who only changes the method.

        Returns:
            The cell, and what was left out, by name. Of parameters that are a cell already, nothing is.

        Raises:
            KvreproError: as `from_mapping`.
        """
        method = values.get("method", cls.method)
        check_method_name(method)
        idle = idle_sizes(method, values.get("protocol"), values.get("window"))
        left_out = {name: values[name] for name in idle if values.get(name) is not None}
        return cls.from_mapping({name: v for name, v in values.items() if name not in left_out}), left_out

    @property
    def sampling(self) -> SamplingConfig:
        """The sampling part; checks its own ranges."""
        return SamplingConfig(self.temperature, self.top_p, self.top_k, self.sampling_order)

    @property
    def method_name(self) -> str:
        """The method's name; of a class in a file the one that it states."""
        return method_name(self.method)

    def method_options(self) -> dict[str, Any]:
        """Arguments for `create_method`."""
        names = ("budget", "window", "ratio", "evict_every", "protocol", "pin_overflow")
        return {**{name: getattr(self, name) for name in names}, **(self.options or {})}

    @property
    def label(self) -> str:
        """The method as tables and figures print it: its name and the switches that differ from its own."""
        switches = [
            _SWITCH_LABELS.get((name, value), f"{name}={value}") for name, value in sorted((self.options or {}).items())
        ]
        return " + ".join([self.method_name, *switches])

    def resolved(self) -> dict[str, Any]:
        """All fields, defaults included, in the order of definition."""
        return asdict(self)

    @cached_property
    def hash8(self) -> str:
        """First eight hex digits over all that changes tokens or scores; see `identity.cell_hash`.

        As of when it is first asked for: rows and weights are looked at, and a profile's cells are asked many times.
        """
        return cell_hash(self.resolved())

    def check_unchanged(self) -> None:
        """Raise `KvreproError` if files changed since the cell was named: its replies would be another cell's."""
        if (found := cell_hash(self.resolved())) != self.hash8:
            raise KvreproError(
                f"{self.cell_id}: what it is made of changed while it was loaded (now {found}): its method's file, its "
                "rows or its weights; start it again"
            )

    @property
    def cell_id(self) -> str:
        """`model/benchmark/method-budget/hash8`, the cell's folder below its profile."""
        budget = "none" if self.budget is None else self.budget
        model = self.model.rstrip("/").rsplit("/", 1)[-1]
        return f"{model}/{self.benchmark}/{self.method_name}-{budget}/{self.hash8}"


FIELD_NAMES = tuple(f.name for f in fields(CellConfig))
