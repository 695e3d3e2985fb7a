"""What a good predictor is worth: the same eviction rule with scores of different quality, over budgets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch

from ..engine.generate import generate
from ..engine.requests import OK, Completion
from ..graders import grade_many
from ..methods.learned.importance import ImportancePredictor
from ..methods.table import create_method
from ..models.tokens import ThinkTags
from ..runs.grading import grading_item
from ..scores.statistics import interval
from ..training.importance.ranking import bootstrap
from ..training.questions import Question
from .fidelity import KnownTrace, measure_fidelity, oracle_traces, summarise_fidelity

SHIPPED, UNTRAINED, RANDOM, ORACLE = "dynts", "dynts, untrained head", "random", "dynts, oracle labels"
GENERATED_KINDS = (SHIPPED, UNTRAINED, RANDOM)
FIDELITY_KINDS = (ORACLE, *GENERATED_KINDS)
FIDELITY_MEASURES = ("agrees", "kl", "answer_log_likelihood")


def untrained_head(head: ImportancePredictor, seed: int = 0) -> ImportancePredictor:
    """A head of the same shape with fresh weights: what the architecture alone is worth."""
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    fresh = ImportancePredictor(head.shape)
    torch.set_rng_state(state)
    return fresh.eval().to(next(head.parameters()))


def _scored(kind: str, head: ImportancePredictor, seed: int) -> tuple[str, dict[str, object]]:
    """Method name and options of one kind."""
    if kind == RANDOM:
        return "random", {}
    return "dynts", {"predictor": untrained_head(head, seed) if kind == UNTRAINED else head}


def generate_by_score(
    model, tokenizer, questions: Sequence[Question], budgets: Iterable[int], head: ImportancePredictor, *,
    n_samples: int = 1, window: int = 32, ratio: float = 0.75, max_new_tokens: int = 700, batch_rows: int = 64,
    seed: int = 42,
) -> tuple[pd.DataFrame, list[Completion]]:  # fmt: skip
    """Pass@1 of every kind of `GENERATED_KINDS` at every budget, and of the full cache.

    Returns:
        Columns kind, budget_tokens (missing for the full cache), pass_at_1, lo, hi (percent, 95 %, clustered by
        problem), truncated (percent), n_problems, n_samples; and the replies of the full cache.
    """
    common = dict(n_samples=n_samples, max_new_tokens=max_new_tokens, batch_rows=batch_rows, seed=seed)
    prompts = [q.text for q in questions]
    full = generate(model, tokenizer, prompts, "full", **common)
    rows = [_pass_at_1("full cache", None, questions, full, n_samples)]
    for budget in budgets:
        for kind in GENERATED_KINDS:
            method, options = _scored(kind, head, seed)
            replies = generate(
                model, tokenizer, prompts, method, budget, window=window, ratio=ratio, **common, **options
            )  # fmt: skip
            rows.append(_pass_at_1(kind, budget, questions, replies, n_samples))
    return pd.DataFrame(rows), full


def _pass_at_1(kind, budget, questions, replies: list[Completion], n_samples: int) -> dict[str, object]:
    items = [
        grading_item({**vars(reply), "gold": question.gold}, question.kind)
        for i, question in enumerate(questions)
        for reply in replies[i * n_samples : (i + 1) * n_samples]
    ]
    correct = [score.correct for score in grade_many(items, workers=1)]
    means = np.reshape(correct, (len(questions), n_samples)).mean(axis=1)
    found = interval(means)
    return {
        "kind": kind, "budget_tokens": budget, "pass_at_1": 100 * found.estimate, "lo": 100 * found.lo,
        "hi": 100 * found.hi, "truncated": 100 * sum(r.status != OK for r in replies) / len(replies),
        "n_problems": len(questions), "n_samples": n_samples,
    }  # fmt: skip


def known_traces(replies: Iterable[Completion]) -> list[KnownTrace]:
    """Finished full-cache replies with an answer, as traces to follow."""
    return [
        KnownTrace(
            r.request.problem_id, r.request.sample_id, r.request.prompt_ids, tuple(r.token_ids), r.n_thinking_tokens
        )
        for r in replies
        if r.status == OK and 0 < r.n_thinking_tokens < len(r.token_ids)
    ]  # fmt: skip


def fidelity_by_score(
    model, tokenizer, traces: Sequence[KnownTrace], budgets: Iterable[int], head: ImportancePredictor, *,
    window: int = 32, ratio: float = 0.75, batch_rows: int = 64, seed: int = 42,
    think: ThinkTags | None = None,
) -> pd.DataFrame:  # fmt: skip
    """How far every kind of `FIDELITY_KINDS` bends the model along known traces, at every budget.

    The oracle ranks by the true labels, which no method can know while generating; it bounds what any predictor of
    these labels can reach under this rule.

    Returns:
        Columns kind, budget_tokens, measure (of `FIDELITY_MEASURES`), mean, lo, hi (bootstrap over traces), n_traces.
    """
    labels = oracle_traces(model, "oracle_answer", traces)
    think, rows = think or ThinkTags.of(tokenizer), []
    for budget in budgets:
        for kind in FIDELITY_KINDS:
            name, options = ("oracle_answer", {"traces": labels}) if kind == ORACLE else _scored(kind, head, seed)
            method = create_method(name, budget, window=window, ratio=ratio, **options)
            frame = measure_fidelity(model, traces, method, think=think, batch_rows=batch_rows, seed=seed)
            per_trace = summarise_fidelity(frame)
            for measure in FIDELITY_MEASURES:
                found = bootstrap(per_trace[measure])
                rows.append({"kind": kind, "budget_tokens": budget, "measure": measure, **found})
    return pd.DataFrame(rows)
