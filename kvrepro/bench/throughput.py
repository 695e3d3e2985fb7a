"""Throughput of a panel: its cells decode their own recorded replies in turn, so that slow moments fall on all.

Every cell has its own engine, as it ran, and is forced along the replies that it wrote: the same lengths, the same
evictions. A forced row draws its token as any other, so nothing of a step is left out.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..benchmarks.table import load_with_origin
from ..engine.generate import end_token_ids
from ..engine.requests import Request
from ..errors import KvreproError
from ..models.loading import load_model
from ..models.table import model_entry
from ..runs.config import CellConfig
from ..runs.folder import CellFolder, read_records
from ..runs.provenance import provenance
from ..runs.runner import prepare_cell
from ..runs.throughput import Panel, ThroughputSettings
from .machine_load import MachineLoad
from .rounds import Spread, ends, panel_verdict, ratios

Key = tuple[str, int]  # problem and sample
# steps that warm a cell up, uncounted, and the least seconds over which the machine's load is taken
WARM_UP_STEPS, LOAD_S = 32, 0.5
# turns after which caches move to other memory
MOVE_TURNS = 10
# turns that every round gets, so that all rounds see all lengths
TURNS_PER_ROUND = 4


class CellReplies:
    """A cell's engine and what it replied, ready to decode that again.

    Attributes:
        records: by problem and sample.
        rows: replies that it decodes together: as asked for, but no more than when it ran.
        refitted: replies whose text does not give as many tokens as they had; cut, or repeated from their beginning.
        evictions, recorded_evictions: of the replies that were decoded again, now and when the cell ran.
    """

    def __init__(self, config: CellConfig, folder: CellFolder, model, tokenizer, rows: int):
        problems, _ = load_with_origin(config.benchmark, config.n_problems, config.prompt_style)
        # on a CPU the time of this thread, which does all the work; on a GPU the timer takes events
        self.rows = min(rows, config.batch_rows)
        self.engine, requests = prepare_cell(config, model, tokenizer, problems, batch_rows=self.rows, clock="thread")
        self.config, self.tokenizer, self.end = config, tokenizer, end_token_ids(model, tokenizer)[:1]
        self.requests = {(r.problem_id, r.sample_id): r for r in requests}
        self.records = {(row["problem_id"], row["sample_id"]): row for row in read_records(folder.path)}
        self._waiting: list[Request] = []
        self.forget()

    def length(self, key: Key) -> int:
        """Tokens of a recorded reply."""
        return self.records[key]["n_thinking_tokens"] + self.records[key]["n_answer_tokens"]

    def begin(self, keys: Sequence[Key]) -> None:
        """Let these replies wait; memory is taken with the first turn."""
        self._waiting, self._state = [self._forced(key) for key in keys], None

    @property
    def is_waiting(self) -> bool:
        """Whether any token is left."""
        return bool(self._waiting) or self._state is not None

    def turn(self, steps: float = math.inf) -> np.ndarray:
        """Decode on: new tokens, seconds of decoding and those of evictions among them, `[3]`.

        Memory is given back with the last token.
        """
        if self._waiting:
            self._state, self._waiting = self.engine.begin(self._waiting), []
        if self._state is None:
            return np.zeros(3)
        before, steps_before = self._counters(), self.engine.stats.steps
        for completion in self.engine.advance(self._state, steps):
            self.evictions += completion.evictions
            row = self.records[completion.request.problem_id, completion.request.sample_id]
            self.recorded_evictions += row["evictions"]
        if not self._state.waiting and not self._state.batch.rows:
            self._state = None
        found = self._counters() - before
        self._tokens += found[0]
        self._steps += self.engine.stats.steps - steps_before
        return found

    def _counters(self) -> np.ndarray:
        stats = self.engine.stats
        return np.array([stats.decoded_tokens, stats.decode_s, stats.evict_s])

    def move(self) -> None:
        """Copy keys and values to other memory, untimed, where the decode step looks for them anew each time.

        Which pages of the machine a cache was given changes its speed by some percent for as long as it lives; no
        number of rounds over the same pages would show that.
        """
        if self._state is not None and self.engine.decoder.name == "native":
            self._state.cache.kv = self._state.cache.kv.clone()

    def forget(self) -> None:
        """Drop what was begun and what was counted."""
        self._waiting, self._state = [], None
        self.refitted = self.evictions = self.recorded_evictions = self._steps = 0
        self._tokens = 0.0

    @property
    def live_rows_mean(self) -> float:
        """Tokens of a step: rows of which a reply is left. One long reply decodes for long with few."""
        return self._tokens / max(1, self._steps)

    def row(self, tps: list[float], full: list[float] | None) -> dict[str, Any]:
        """What is said of the cell.

        Args:
            tps: tokens per second, round by round.
            full: those of the full cache; None where the panel has none.
        """
        found = {n: getattr(self.config, n) for n in ("method", "label", "budget")} | {"tps": tps}
        for name, values in (("decode_tps", tps), ("tps_vs_full", full and ratios(tps, full))):
            spread = vars(Spread.of(values)) if values else dict.fromkeys(("median", "lo", "hi"))
            found |= {name: spread["median"], f"{name}_lo": spread["lo"], f"{name}_hi": spread["hi"]}
        names = ("rows", "live_rows_mean", "evictions", "recorded_evictions", "refitted")
        return found | {name: getattr(self, name) for name in names}

    def _forced(self, key: Key) -> Request:
        """The request of a reply that is given."""
        row, request, length = self.records[key], self.requests[key], self.length(key)
        ids = self.tokenizer.encode(row["text"], add_special_tokens=False)
        # a text does not hold the end token
        ids += self.end if len(ids) == length - 1 else []
        if len(ids) != length:
            self.refitted += 1
            ids = (ids * math.ceil(length / max(1, len(ids))) or [0] * length)[:length]
        return Request(request.problem_id, request.sample_id, request.prompt_ids, tuple(ids))


def measure_panel(panel: Panel, settings: ThroughputSettings, device: str | None = None) -> dict[str, Any]:
    """Measure one panel; returns what its JSON file holds (docs/reference.md).

    On a CPU one thread computes and its processor time counts, on a GPU the time between events.

    Raises:
        KvreproError: a cell is not complete, the cells share no replies, or those are too short for the rounds.
    """
    if lacks := panel.lacks:
        raise KvreproError(f"{lacks}; run them with `kvrepro grid {panel.profile}`")
    torch.set_num_threads(1)
    model, tokenizer = load_model(model_entry(panel.cells[0].model), device)
    pairs = zip(panel.cells, panel.folders, strict=True)
    cells = [CellReplies(config, folder, model, tokenizer, settings.rows) for config, folder in pairs]
    keys = _shared(panel.name, cells)
    runs, load = panel.runs(), MachineLoad()
    tokens, seconds = _decode(panel.name, cells, keys, settings, load)
    tps = {c.config.cell_id: row.tolist() for c, row in zip(cells, tokens / seconds, strict=True)}
    full = next((tps[c.config.cell_id] for c in cells if c.config.budget is None), None)
    by_budget: dict[tuple[str, int | None], list[float]] = {}
    for c in cells:
        # of cells that are alike in both the first, as in the figures
        by_budget.setdefault((c.config.label, c.config.budget), tps[c.config.cell_id])
    methods = ends(by_budget)
    model_name, benchmark = panel.name.split("/")
    return {
        "model": model_name,
        "benchmark": benchmark,
        "clock": "events" if model.device.type == "cuda" else "processor",
        "settings": vars(settings),
        "rounds": settings.rounds,
        "rows": len(_some(keys, settings, cells, 0)),
        "new_tokens": round(tokens.mean()),
        "load": load.summary(),
        "cells": {
            c.config.cell_id: c.row(tps[c.config.cell_id], full) | {"ended": runs[c.config.cell_id]} for c in cells
        },
        "methods": methods,
        "verdict": panel_verdict([method["verdict"] for method in methods.values()]),
        **provenance(str(model.device)),
    }


def _shared(name: str, cells: list[CellReplies]) -> list[Key]:
    """Replies that every cell of the panel has, of more than the token that comes from the prompt."""
    keys = [k for k in cells[0].requests if all(k in cell.records and cell.length(k) > 1 for cell in cells)]
    if not keys:
        raise KvreproError(
            f"{name}: its {len(cells)} cells share no problem and sample with a reply of two tokens or more; give them "
            "the same problems, and max_new_tokens above 1"
        )
    return keys


def _decode(
    name: str, cells: list[CellReplies], keys: Sequence[Key], settings: ThroughputSettings, load: MachineLoad
) -> np.ndarray:
    """Tokens and seconds of every cell and round, `[2, cells, rounds]`."""
    steps = _turn_steps(name, cells, keys, settings)
    for cell in cells:
        cell.begin(_some(keys, settings, cells, 0))
        cell.turn(min(steps, WARM_UP_STEPS))
        cell.forget()
    found = np.zeros((3, len(cells), settings.rounds))
    draw, is_backwards = random.Random(name), itertools.cycle((False, True))
    for number, rounds in enumerate(settings.passes()):
        for cell in cells:
            cell.begin(_some(keys, settings, cells, number))
        for turn, at in enumerate(_deal(rounds, draw), start=1):
            if not any(cell.is_waiting for cell in cells):
                break
            if turn % MOVE_TURNS == 0:
                for cell in cells:
                    cell.move()
            # forwards and backwards, so that a machine that grows slower favours no end
            for i in range(len(cells))[:: -1 if next(is_backwards) else 1]:
                found[:, i, at] += cells[i].turn(steps)
            load.lap(LOAD_S)
        # evictions come in bursts of all rows, a few in a round: shared within the pass, or chance would deal them
        evicting = found[2][:, rounds]
        found[1][:, rounds] += evicting.mean(1, keepdims=True) - evicting
    return found[:2]


def _some(keys: Sequence[Key], settings: ThroughputSettings, cells: Sequence[CellReplies], number: int) -> list[Key]:
    """The replies of a pass: as many as a cell has rows, those of all problems first, the next with every number.

    With whole replies a pass is a round, and rounds that differ in what they decode would differ in time as well: they
    all take the first.
    """
    rows = min(max(cell.rows for cell in cells), len(keys))
    stride = len(keys) // rows
    order = [key for i in range(stride) for key in keys[i::stride]]
    start = 0 if settings.turn_tokens is None else number * rows
    return [order[(start + i) % len(order)] for i in range(rows)]


def _turn_steps(name: str, cells: list[CellReplies], keys: Sequence[Key], settings: ThroughputSettings) -> float:
    """Steps of a turn: as asked for, fewer where replies are too short for `TURNS_PER_ROUND`, or all of a reply."""
    if settings.turn_tokens is None:
        return math.inf
    passes = settings.passes()
    n_rounds, parts = max(map(len, passes)), [_some(keys, settings, cells, number) for number in range(len(passes))]
    # of the pass that ends first
    tokens = min(max(cell.length(key) for key in part) for cell in cells for part in parts)
    if tokens <= n_rounds:
        raise KvreproError(
            f"{name}: replies of at most {tokens} tokens cannot be dealt to {n_rounds} rounds; measure a benchmark "
            "with longer replies"
        )
    return max(1, min(settings.turn_tokens, (tokens - 1) // (TURNS_PER_ROUND * n_rounds)))


def _deal(rounds: Sequence[int], draw: random.Random) -> Iterator[int]:
    """Rounds for turns to count for: each once in a drawn order, because evictions come regularly, then backwards.

    Backwards, so that no round gets more of the late turns, when rows are long and few.
    """
    while True:
        order = draw.sample(rounds, len(rounds))
        yield from order
        yield from order[::-1]
