"""Whole replies of a real model, variants in turn: the engine beside transformers.generate, methods beside `window`.

Every row of one comparison is equally long. Methods follow forced tokens, so all of them feed the same text, evict at
the same steps and end together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from transformers import DynamicCache

from ..benchmarks.table import load_problems
from ..engine.requests import Request, SamplingConfig
from ..errors import KvreproError
from ..methods.learned.importance import load_predictor_for
from ..methods.learned.loading import load_learned
from ..methods.table import create_method, method_class
from ..models.tokens import render_prompt
from .baselines import generate_replies
from .engine_loop import run_replies
from .laps import in_turn, median_ratio, timed

GENERATE, WINDOW = "transformers.generate", "window"


def compare_replies(
    model,
    tokenizer,
    batches: list[int],
    new_tokens: int,
    budget: int,
    repeats: int,
    say: Callable[[str], None] = print,
    clock: str = "wall",
) -> list[dict[str, Any]]:
    """Time the engine and transformers.generate on real prompts.

    Args:
        clock: `wall` or `cpu`, see `StageTimer`.

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

    def generate(ids: torch.Tensor) -> None:
        generate_replies(model, ids, DynamicCache(), new_tokens)

    rows = []
    say(f"{'rows':>5} {'variant':24} {'tokens/s':>10} {'ratio':>7}")
    for n_rows in batches:
        requests = [Request(str(i), 0, tuple(p)) for i, p in enumerate(prompts[:n_rows])]
        replies = {GENERATE: partial(generate, torch.tensor(prompts[:n_rows], device=model.device))}
        replies |= {name: partial(run_replies, model, m, requests, new_tokens) for name, m in methods.items()}
        works = {name: partial(timed, work, model.device) for name, work in replies.items()}
        _, *rounds = in_turn(works, repeats + 1)  # the first round warms up
        ms = {name: [found[name][clock] for found in rounds] for name in works}
        for name, own in ms.items():
            tps, ratio = 1e3 * n_rows * new_tokens / median(own), median_ratio(ms[GENERATE], own)
            rows.append({"rows": n_rows, "variant": name, "tps": tps, "ratio": ratio})
            say(f"{n_rows:5} {name:24} {tps:10.0f} {ratio:6.2f}x")
    return rows


@dataclass(frozen=True)
class CostSetting:
    """Rows decoded together, tokens per row, and the fair schedule that all methods share."""

    rows: int = 64
    prompt_tokens: int = 68
    new_tokens: int = 280
    budget: int = 176
    window: int = 32
    evict_every: int = 32


def measure_costs(
    model,
    tokenizer,
    names: Sequence[str],
    setting: CostSetting = CostSetting(),
    repeats: int = 3,
    clock: str = "wall",
) -> list[dict[str, Any]]:
    """Time every method, several times over, beside `window` in the same round.

    Args:
        clock: see `StageTimer`.

    Returns:
        Per method: `step_ms` (model and scoring per decode step, median), `step_ratio` (to `window`, median of the
        rounds' ratios), `evict_share` (evictions, scores included, as a share of decoding), `evict_ms` (per row and
        eviction), `decode_tps`.

    Raises:
        KvreproError: an oracle, which has no cost of its own while generating.
    """
    works = {name: partial(_cost, model, tokenizer, name, setting, clock) for name in dict.fromkeys([WINDOW, *names])}
    _, *rounds = in_turn(works, repeats + 1)  # the first round warms up
    rows = []
    for name in works:
        found = {key: [costs[name][key] for costs in rounds] for key in rounds[0][name]}
        ratio = median_ratio(found["step_ms"], [costs[WINDOW]["step_ms"] for costs in rounds])
        rows.append({"method": name, **{key: median(values) for key, values in found.items()}, "step_ratio": ratio})
    return rows


def method_options(name: str, setting: CostSetting) -> dict[str, Any]:
    """Options without which a method cannot run in this setting."""
    if name == "vase_attnv":
        return {"obs_window": min(64, setting.window)}
    if name == "snapkv_dynts":
        return {"obs_window": min(32, setting.evict_every - 2)}
    return {}


def _cost(model, tokenizer, name: str, setting: CostSetting, clock: str) -> dict[str, float]:
    """One run of a method."""
    cls = method_class(name)
    if "trace" in cls.needs:
        raise KvreproError(f"{name} looks into a finished trace; it has no cost of its own while generating")
    options = method_options(name, setting)
    if name != "full":
        options |= dict(budget=setting.budget, window=setting.window, evict_every=setting.evict_every, protocol="fair")
    method = create_method(cls, **{**options, **load_learned(cls, model, tokenizer, options)})
    draw = random.Random(0)
    vocabulary = range(10, model.config.vocab_size)
    prompt = tuple(draw.choices(vocabulary, k=setting.prompt_tokens))
    requests = [
        Request(str(i), 0, prompt, tuple(draw.choices(vocabulary, k=setting.new_tokens))) for i in range(setting.rows)
    ]
    greedy = SamplingConfig(temperature=0.0)
    s = run_replies(model, method, requests, setting.new_tokens, sampling=greedy, clock=clock)[1].stats
    return {
        "step_ms": 1e3 * (s.forward_s + s.score_s) / s.steps,
        "evict_share": s.evict_s / s.decode_s,
        "evict_ms": 1e3 * s.evict_s / max(1, s.evictions),
        "decode_tps": s.decode_tps,
    }
