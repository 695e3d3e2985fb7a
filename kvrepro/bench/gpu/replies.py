"""Whole replies of a shipped tiny model on the GPU against those on the CPU, and against the committed numbers.

Both run in float32, so tokens and kept slots should be the same: four decoders that add up in other orders give the
same on a CPU.
"""

from __future__ import annotations

import copy
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel

from ...benchmarks.problem import Problem
from ...benchmarks.table import benchmark_entry, load_problems
from ...engine.observer import KeptPositions
from ...engine.requests import WITHOUT_ANSWER, Completion
from ...graders.grading import grade_many
from ...models.loading import load_model
from ...models.tokens import reply_parts
from ...paths import committed_summary
from ...runs.config import CellConfig
from ...runs.profiles import load_profile
from ...runs.runner import prepare_cell
from .child import Task
from .speed import which_step

BENCHMARK, PROFILE, PROFILE_BUDGET = "chain-12", "tiny", 208
_FAIR = dict(budget=176, window=32, evict_every=32)
# greedy replies under each; the first ones matter most
METHODS: dict[str, dict[str, Any]] = {
    "full": {},
    "dynts": dict(budget=208, window=32, ratio=0.75),
    "rkv": _FAIR,
    "h2o": _FAIR,
    "window": dict(budget=160, window=128, evict_every=32),
    "snapkv": _FAIR,
    "triattention": _FAIR,
    "tova": _FAIR | dict(evict_every=1),
    "random_attention": _FAIR,
    "streaming_llm": _FAIR,
    "lazy_eviction": _FAIR,
}
# points of accuracy that a cell may differ by from the committed table: one reply in a hundred
POINTS = 1.0


def compare(task: Task) -> None:
    """Greedy replies method by method, then cells of the profile as a grid would run them."""
    models = Models(task)
    of_model = [c for c in load_profile(PROFILE).cells if (c.model, c.benchmark) == (task.name, BENCHMARK)]
    for method, options in METHODS.items():
        labels = dict(kind="replies", name=f"{method}, greedy", model=task.name, method=method)
        config = CellConfig(
            task.name,
            BENCHMARK,
            method,
            n_problems=task.sizes.questions,
            max_new_tokens=task.sizes.reply_tokens,
            temperature=0.0,
            batch_rows=8,
            **options,
        )
        task.rows.add("correct", lambda c=config: models.compared(c, c.n_problems)[0], with_clocks=False, **labels)
    for config in of_model:
        if config.method == "full" or config.budget == PROFILE_BUDGET:
            labels = dict(kind="cell", name=config.cell_id, model=task.name, method=config.method)
            task.rows.add("correct", lambda c=config: _cell(models, c), with_clocks=False, **labels)


@dataclass
class Models:
    """A tiny model on the device and its copy on the CPU, loaded when they are first asked for."""

    task: Task

    def __post_init__(self) -> None:
        self._loaded: tuple[PreTrainedModel, PreTrainedModel, Any] | None = None

    def compared(self, config: CellConfig, n_compared: int) -> tuple[dict[str, Any], list[Problem], list[Completion]]:
        """A cell on the device, its first problems on the CPU too: the row, all problems, the device's replies."""
        home, away, tokenizer = self._models()
        problems = load_problems(BENCHMARK, config.n_problems)
        if self.task.settings.small:
            problems = problems[:n_compared]
        cpu, here = _generated(config, home, tokenizer, problems[:n_compared], "auto")
        gpu, there = _generated(config, away, tokenizer, problems, "graph")
        both = [(here[key], there[key]) for key in here]
        equal = sum(a.token_ids == b.token_ids and a.status == b.status for a, b in both)
        row = {
            "equal_replies": equal,
            "equal_kept": (kept := sum(a.kept_positions == b.kept_positions for a, b in both)),
            "of": len(both),
            "first_differences": [_first_difference(a, b) for a, b in both if a.token_ids != b.token_ids],
            "evictions": [sum(c.evictions for c in pair) for pair in zip(*both, strict=True)],
            "cpu_decoder": cpu.decoder.name,
            **which_step(gpu.decoder, away.device),
        }
        row["ok"] = equal == kept == len(both) and not row["tf32"]
        return row, problems, list(there.values())

    def _models(self) -> tuple[PreTrainedModel, PreTrainedModel, Any]:
        if self._loaded is None:
            away, tokenizer = load_model(self.task.name, self.task.settings.device)
            # the same weights, without reading them again
            self._loaded = copy.deepcopy(away).to("cpu"), away, tokenizer
        return self._loaded


def _generated(
    config: CellConfig, model: PreTrainedModel, tokenizer, problems: Sequence[Problem], decoder: str
) -> tuple[Any, dict[tuple[str, int], Completion]]:
    engine, requests = prepare_cell(config, model, tokenizer, list(problems), decoder=decoder, observer=KeptPositions())
    done = {(c.request.problem_id, c.request.sample_id): c for c in engine.run(requests)}
    think, keys = engine.think, [(r.problem_id, r.sample_id) for r in requests]
    for completion in done.values():
        completion.text, completion.answer_start = reply_parts(
            tokenizer, completion.token_ids, completion.n_closed, think
        )
    return engine, {key: done[key] for key in keys}


def _first_difference(a: Completion, b: Completion) -> list[Any]:
    """Problem, and the index of the first token that differs."""
    pairs = zip(a.token_ids, b.token_ids, strict=False)
    shorter = min(len(a.token_ids), len(b.token_ids))
    return [a.request.problem_id, next((i for i, (x, y) in enumerate(pairs) if x != y), shorter)]


def _cell(models: Models, config: CellConfig) -> dict[str, Any]:
    """A cell of the profile, its replies graded and set beside the committed table."""
    row, problems, replies = models.compared(config, models.task.sizes.cell_problems)
    golds, kind = {p.problem_id: p.gold for p in problems}, benchmark_entry(BENCHMARK).kind
    items = [
        {
            "response": c.text,
            "gold": golds[c.request.problem_id],
            "kind": kind,
            "finish_reason": "stop" if c.status == "ok" else "length",
            "answer_start": c.answer_start,
        }
        for c in replies
    ]
    scores = [s.correct and c.status not in WITHOUT_ANSWER for s, c in zip(grade_many(items, 2), replies, strict=True)]
    found = {
        "pass_at_1": 100 * fmean(scores),
        "mean_new_tokens": fmean(len(c.token_ids) for c in replies),
        "evictions": sum(c.evictions for c in replies),
    }
    row |= {"found": found, "committed": (committed := _committed(config.cell_id))}
    # a part of the cell has no committed number
    if committed is not None and len(replies) == config.n_samples * benchmark_entry(BENCHMARK).n_problems:
        row["same_as_committed"] = all(abs(found[name] - value) < 1e-3 for name, value in committed.items())
        row["ok"] = row["ok"] and abs(found["pass_at_1"] - committed["pass_at_1"]) <= POINTS
    return row


def _committed(cell_id: str) -> dict[str, float] | None:
    """The cell's numbers in the committed table; None without them."""
    path = committed_summary(PROFILE)
    if path is None:
        return None
    with path.open(newline="") as file:
        for line in csv.DictReader(file):
            if line["cell_id"] == cell_id:
                return {name: float(line[name]) for name in ("pass_at_1", "mean_new_tokens", "evictions")}
    return None
