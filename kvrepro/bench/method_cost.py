"""What a method costs: its decode step beside that of `window`, and its evictions beside the decoding.

Every row follows forced tokens, so all methods feed the same text, evict at the same steps and end together.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.requests import Request, SamplingConfig
from ..errors import KvreproError
from ..methods.learned.loading import load_learned
from ..methods.table import create_method, method_class
from .engine_loop import run_replies

BASE = "window"


@dataclass(frozen=True)
class CostSetting:
    """Rows decoded together, tokens per row, and the fair schedule that all methods share."""

    rows: int = 64
    prompt_tokens: int = 68
    new_tokens: int = 280
    budget: int = 176
    window: int = 32
    evict_every: int = 32


def method_options(name: str, setting: CostSetting) -> dict[str, Any]:
    """Options without which a method cannot run in this setting."""
    if name == "vase_attnv":
        return {"obs_window": min(64, setting.window)}
    if name == "snapkv_dynts":
        return {"obs_window": min(32, setting.evict_every - 2)}
    return {}


def measure_costs(
    model, tokenizer, names: Sequence[str], setting: CostSetting = CostSetting(), repeats: int = 3
) -> list[dict[str, Any]]:
    """Time every method in turn, several times over, beside `window` in the same round.

    Returns:
        Per method: `step_ms` (model and scoring per decode step, median), `step_ratio` (to `window`, median of the
        rounds' ratios), `evict_share` (evictions, scores included, as a share of decoding), `evict_ms` (per row and
        eviction), `decode_tps`.

    Raises:
        KvreproError: an oracle, which has no cost of its own while generating.
    """
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in dict.fromkeys([BASE, *names])}
    for repeat in range(repeats + 1):
        for name in rounds:
            found = _run(model, tokenizer, name, setting)
            if repeat:  # the first round warms up
                rounds[name].append(found)
    rows = []
    for name, mine in rounds.items():
        ratios = [m["step_ms"] / b["step_ms"] for m, b in zip(mine, rounds[BASE], strict=True)]
        medians = {key: statistics.median(m[key] for m in mine) for key in mine[0]}
        rows.append({"method": name, **medians, "step_ratio": statistics.median(ratios)})
    return rows


def _run(model, tokenizer, name: str, setting: CostSetting) -> dict[str, float]:
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
    s = run_replies(model, method, requests, setting.new_tokens, sampling=greedy)[1].stats
    return {
        "step_ms": 1e3 * (s.forward_s + s.score_s) / s.steps,
        "evict_share": s.evict_s / s.decode_s,
        "evict_ms": 1e3 * s.evict_s / max(1, s.evictions),
        "decode_tps": s.decode_tps,
    }
