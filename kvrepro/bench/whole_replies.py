"""The engine beside transformers.generate on one model, batch and length, with real prompts and whole replies."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from ..benchmarks.table import load_problems
from ..engine.requests import Request
from ..methods.learned.importance import load_predictor_for
from ..methods.table import create_method
from ..models.tokens import render_prompt
from .baselines import generate_replies
from .engine_loop import run_replies
from .step_timer import Laps

BASE = "transformers.generate"


def compare_replies(
    model, tokenizer, batches: list[int], new_tokens: int, budget: int, repeats: int, say: Callable[[str], None] = print
) -> list[dict[str, Any]]:
    """Time the variants in turn; every reply has the same length on all sides.

    Returns:
        Per batch and variant `rows`, `variant`, `tps` (median) and `ratio` to `transformers.generate`.
    """
    prompts = [render_prompt(tokenizer, p.question) for p in load_problems("chain-12", max(batches))]
    shortest = min(map(len, prompts))
    # prompts of equal length, so that transformers needs no padding and works at its best
    prompts = [p[:shortest] for p in prompts]
    predictor = load_predictor_for(model)
    methods = {
        "kvrepro full": create_method("full"),
        f"kvrepro dynts {budget}": create_method("dynts", budget, window=32, ratio=0.75, predictor=predictor),
    }
    rows = []
    say(f"{'rows':>5} {'variant':24} {'tokens/s':>10} {'ratio':>7}")
    for n_rows in batches:
        ids = torch.tensor(prompts[:n_rows], device=model.device)
        requests = [Request(str(i), 0, tuple(p)) for i, p in enumerate(prompts[:n_rows])]
        laps = {name: Laps(model.device) for name in (BASE, *methods)}
        for _ in range(repeats + 1):
            for name, lap in laps.items():
                lap.start()
                if name == BASE:
                    generate_replies(model, ids, DynamicCache(), new_tokens)
                else:
                    run_replies(model, methods[name], requests, new_tokens)
                lap.lap()
        for lap in laps.values():
            lap.drop(1)  # the first round warms up
        base = laps[BASE].wall
        for name, lap in laps.items():
            ratio = statistics.median(b / own for own, b in zip(lap.wall, base, strict=True))
            tps = 1e3 * n_rows * new_tokens / statistics.median(lap.wall)
            rows.append({"rows": n_rows, "variant": name, "tps": tps, "ratio": ratio})
            say(f"{n_rows:5} {name:24} {tps:10.0f} {ratio:6.2f}x")
    return rows
