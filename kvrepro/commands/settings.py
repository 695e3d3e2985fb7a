"""Arguments that several commands share: `--set`, and those of `kvrepro traces`, `labels` and `train`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import yaml

from ..errors import KvreproError


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """The plan, its changed settings, threads and a dry run."""
    parser.add_argument("plan", help="a name in nbs_params/predictor, a YAML file, a model name or a model folder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as traces.n_train=50")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", help="cpu, cuda, cuda:1; default: cuda where there is one")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved settings and stop")


def plan_of(args: argparse.Namespace, more: dict[str, Any] | None = None):
    """The plan with `--set` values and `more` settings (None means not given).

    Raises:
        KvreproError: a value that is no NAME=VALUE.
    """
    from ..training.importance.settings import load_plan

    if args.threads < 1:
        raise KvreproError(f"--threads={args.threads}; expected at least 1")
    settings = {name: value for name, value in (more or {}).items() if value is not None}
    settings |= set_values(args.set, "traces.n_train=50")
    return load_plan(args.plan).changed(settings)


def set_values(items: Sequence[str], example: str) -> dict[str, Any]:
    """The values of `--set NAME=VALUE`, read as YAML, of which JSON is a part.

    Raises:
        KvreproError: an item without `=`, or a value that cannot be read.
    """
    values = {}
    for item in items:
        name, mark, text = item.partition("=")
        if not mark or not name:
            raise KvreproError(f"--set {item}: expected NAME=VALUE, such as {example}")
        try:
            values[name] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise KvreproError(f"--set {item}: not valid YAML: {error}") from error
    return values


def shown_plan(plan, width: int | None = None) -> dict[str, Any]:
    """The resolved plan as one JSON-ready object, printed as YAML."""
    from dataclasses import asdict

    resolved = {
        "model": plan.model, "traces": asdict(plan.traces), "labels": asdict(plan.labels),
        "training": asdict(plan.recipe(width)),
    }  # fmt: skip
    resolved = {k: _lists(v) for k, v in resolved.items()}
    print(yaml.safe_dump(resolved, sort_keys=False).rstrip())
    return {"plan": resolved}


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, tuple | list) else value


def set_threads(n_threads: int) -> None:
    """Threads of this process's tensor operations."""
    import torch

    torch.set_num_threads(n_threads)
