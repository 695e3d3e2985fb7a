"""One real run through the engine, beside what short stretches promise for it."""

from __future__ import annotations

import time
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from ...engine.engine import Engine
from ...engine.requests import Request, SamplingConfig
from ...models.tokens import ThinkTags
from ..laps import Laps
from .child import Task
from .clocks import clocks_under_load
from .decode import ShapeRows
from .speed import cycle_lengths, eviction_samples, paper_method, step_samples, which_step

# steps before the clock starts: prompts are read, kernels compiled, the graph is captured
FIRST_STEPS, CHUNK = 8, 256
# prompts differ by so many tokens, so that rows evict at different steps
PROMPT_STEP = 13


def measure(task: Task) -> None:
    """`dynts` at the smallest budget, as many steps as the longest reply has, or as the time allows."""
    name = task.name.partition(" ")[0]
    shape, tokens = ShapeRows(task, name), task.sizes.first[0]
    shape.add(f"dynts C={tokens} real run", "dynts", lambda: _row(task, shape, tokens), "decode", variant="real run")


def _row(task: Task, shape: ShapeRows, tokens: int) -> dict[str, Any]:
    sizes, rows = task.sizes, shape.rows
    method = paper_method(shape.name, "dynts", tokens, shape.model, sizes)
    kept, peak = method.schedule.kept_tokens, method.schedule.peak_tokens
    loop = shape.loop("dynts", tokens, rows)
    cycle, steps = cycle_lengths(loop.method, sizes)
    short = [n for n in (sizes.prompt_tokens + FIRST_STEPS, kept // 2) if n < kept]
    lengths = sorted({*short, *cycle})
    ms = [median(s) for s in step_samples(loop, lengths, steps, sizes)]
    evict = median(eviction_samples(loop, sizes))
    under_load = clocks_under_load(partial(loop.mean_step_ms, lengths[-1], steps, 0))
    del loop
    draw = np.random.default_rng(0)
    prompts = [sizes.prompt_tokens + PROMPT_STEP * i % (tokens // 4) for i in range(rows)]
    ids = [tuple(draw.integers(0, shape.model.config.vocab_size, n).tolist()) for n in prompts]
    engine = Engine(
        shape.model,
        method,
        ThinkTags(()),
        (),
        sampling=SamplingConfig(),
        batch_rows=rows,
        max_new_tokens=sizes.real_steps,
        decoder="graph",
    )
    state = engine.begin([Request(str(i), 0, prompt) for i, prompt in enumerate(ids)])
    ended = list(engine.advance(state, FIRST_STEPS))
    before, started, done = dict(vars(engine.stats)), list(state.cache.lengths), 0
    laps = Laps(shape.model.device)
    # one token comes from the prompt
    total = sizes.real_steps - 1 - FIRST_STEPS
    while done < total and (done == 0 or time.time() < task.rows.until):
        ended += engine.advance(state, min(CHUNK, total - done))
        done = engine.stats.steps - before["steps"]
    laps.lap()
    predicted = promised_ms(started, done, kept, peak, lengths, ms, evict)
    if any(len(c.token_ids) != sizes.real_steps for c in ended):
        raise RuntimeError("replies ended early, so their time cannot be compared")
    stages = {name: engine.stats.__dict__[name] - before[name] for name in before if name.endswith("_s")}
    return dict(
        rows=rows,
        budget_tokens=tokens,
        steps=done,
        of_steps=total,
        step_ms_measured=laps.wall[0] / done,
        step_ms_predicted=predicted / done,
        measured_over_predicted=laps.wall[0] / predicted,
        decode_tps=rows * done / laps.wall[0] * 1e3,
        evictions=engine.stats.evictions - before["evictions"],
        eviction_ms=evict,
        step_lengths=lengths,
        step_ms=ms,
        stage_s=stages,
        clocks_under_load=under_load,
        **which_step(engine.decoder, shape.model.device),
    )


def promised_ms(
    slots: list[int], steps: int, kept: int, peak: int, lengths: list[int], ms: list[float], eviction_ms: float
) -> float:
    """Milliseconds of so many steps: each at the rows' mean length, and every eviction of a row.

    Args:
        slots: of every row before the first step; a row that reaches `peak` goes back to `kept`.
        lengths, ms: where a step was measured; straight lines between, level outside.
    """
    held, total = np.array(slots), 0.0
    for _ in range(steps):
        total += float(np.interp(held.mean(), lengths, ms))
        held += 1
        full = held >= peak
        total += eviction_ms * int(full.sum())
        held[full] = kept
    return total
