"""The engine beside transformers.generate on one model, batch and length, with real prompts and whole replies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from ..benchmarks.table import load_problems
from ..engine.requests import Request, SamplingConfig
from ..methods.table import create_method
from ..models.tokens import ThinkTags, render_prompt


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
    rows = []
    say(f"{'rows':>5} {'variant':24} {'tokens/s':>10} {'ratio':>7}")
    for n_rows in batches:
        variants = {
            "transformers.generate": lambda n=n_rows: _transformers(model, prompts[:n], new_tokens),
            "kvrepro full": lambda n=n_rows: _engine(model, tokenizer, prompts[:n], new_tokens, None),
            f"kvrepro dynts {budget}": lambda n=n_rows: _engine(model, tokenizer, prompts[:n], new_tokens, budget),
        }
        speeds: dict[str, list[float]] = {name: [] for name in variants}
        for repeat in range(repeats + 1):
            for name, variant in variants.items():
                started = time.perf_counter()
                variant()
                if repeat:  # the first round warms up
                    speeds[name].append(n_rows * new_tokens / (time.perf_counter() - started))
        base = speeds["transformers.generate"]
        for name, values in speeds.items():
            ratio = statistics.median(v / b for v, b in zip(values, base, strict=True))
            rows.append({"rows": n_rows, "variant": name, "tps": statistics.median(values), "ratio": ratio})
            say(f"{n_rows:5} {name:24} {rows[-1]['tps']:10.0f} {ratio:6.2f}x")
    return rows


def _transformers(model, prompts: list[list[int]], new_tokens: int) -> None:
    """`generate` with its DynamicCache and SDPA, sampling as the engine does, end token switched off."""
    import torch
    from transformers import DynamicCache

    ids = torch.tensor(prompts, device=model.device)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), past_key_values=DynamicCache(), max_new_tokens=new_tokens,
        do_sample=True, temperature=0.6, top_k=20, top_p=0.95, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    if out.shape[1] != ids.shape[1] + new_tokens:
        raise RuntimeError(f"transformers made {out.shape[1] - ids.shape[1]} tokens instead of {new_tokens}")


def _engine(model, tokenizer, prompts: list[list[int]], new_tokens: int, budget: int | None) -> None:
    """The engine, prefill included, with the end token switched off."""
    from ..engine.engine import Engine
    from ..methods.learned.importance import load_predictor_for

    options = {} if budget is None else {"window": 32, "ratio": 0.75, "predictor": load_predictor_for(model)}
    method = create_method("full" if budget is None else "dynts", budget, **options)
    engine = Engine(
        model, method, ThinkTags(()), (), sampling=SamplingConfig(), batch_rows=len(prompts),
        max_new_tokens=new_tokens,
    )  # fmt: skip
    done = list(engine.run(Request(str(i), 0, tuple(p)) for i, p in enumerate(prompts)))
    if any(len(c.token_ids) != new_tokens for c in done):
        raise RuntimeError("the engine's replies differ in length; the comparison would not be fair")
