"""What a good predictor is worth: the same eviction rule with scores of different quality, over budgets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch

from ..engine.generate import generate
from ..engine.requests import OK, Completion
from ..graders import grade_many
from ..methods.base import EvictionMethod
from ..methods.learned.importance import ImportancePredictor
from ..methods.table import create_method
from ..models.tokens import ThinkTags
from ..runs.grading import grading_item
from ..scores.sentences import FEW_PROBLEMS, difference_sentence
from ..scores.statistics import holm, interval, paired_comparison
from ..training.importance.ranking import bootstrap
from ..training.questions import Question
from .fidelity import KnownTrace, measure_fidelity, oracle_traces, reference_hidden, summarise_fidelity

SHIPPED, UNTRAINED, RANDOM, ORACLE = "dynts", "dynts, untrained head", "random", "dynts, oracle labels"
GENERATED_KINDS = (SHIPPED, UNTRAINED, RANDOM)
FIDELITY_KINDS = (ORACLE, *GENERATED_KINDS)
FIDELITY_MEASURES = ("agrees", "kl", "answer_log_likelihood")


def untrained_head(head: ImportancePredictor, seed: int = 0) -> ImportancePredictor:
    """A head of the same shape with fresh weights: what the architecture alone is worth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = ImportancePredictor(head.shape)
    return fresh.eval().to(next(head.parameters()))


def _method_of(
    kind: str, budget: int, head: ImportancePredictor, window: int, ratio: float, seed: int, **oracle: object
) -> EvictionMethod:
    """The method of a kind of `FIDELITY_KINDS`; `oracle`: the `traces` that the oracle reads."""
    name, options = {RANDOM: ("random", {}), ORACLE: ("oracle_answer", oracle)}.get(kind, ("dynts", {}))
    if name == "dynts":
        options = {"predictor": untrained_head(head, seed) if kind == UNTRAINED else head}
    return create_method(name, budget, window=window, ratio=ratio, **options)


def generate_by_score(
    model,
    tokenizer,
    questions: Sequence[Question],
    budgets: Iterable[int],
    head: ImportancePredictor,
    *,
    n_samples: int = 1,
    window: int = 32,
    ratio: float = 0.75,
    max_new_tokens: int = 700,
    seed: int = 42,
) -> tuple[pd.DataFrame, list[Completion]]:
    """Pass@1 of every kind of `GENERATED_KINDS` at every budget, and of the full cache.

    Returns:
        Columns kind, budget_tokens (missing for the full cache), pass_at_1, lo, hi (percent, 95 %, clustered by
        problem), truncated (percent), n_problems, n_samples, by_problem (problem id -> mean); and the replies of the
        full cache.
    """
    common = {"n_samples": n_samples, "max_new_tokens": max_new_tokens, "seed": seed}
    prompts = [q.text for q in questions]
    full = generate(model, tokenizer, prompts, "full", **common)
    rows = [{"kind": "full cache", "budget_tokens": None, **_pass_at_1(questions, full)}]
    for budget in budgets:
        for kind in GENERATED_KINDS:
            method = _method_of(kind, budget, head, window, ratio, seed)
            replies = generate(model, tokenizer, prompts, method, **common)
            rows.append({"kind": kind, "budget_tokens": budget, **_pass_at_1(questions, replies)})
    return pd.DataFrame(rows), full


def _pass_at_1(questions: Sequence[Question], replies: list[Completion]) -> dict[str, object]:
    """Score of replies that come problem by problem, the same number for each."""
    n_samples = len(replies) // len(questions)
    per_reply = (question for question in questions for _ in range(n_samples))
    items = [grading_item({**vars(r), "gold": q.gold}, q.kind) for q, r in zip(per_reply, replies, strict=True)]
    correct = [verdict.correct for verdict in grade_many(items, workers=1)]
    means = np.reshape(correct, (-1, n_samples)).mean(axis=1)
    score = interval(means)
    return {
        "pass_at_1": 100 * score.estimate,
        "lo": 100 * score.lo,
        "hi": 100 * score.hi,
        "truncated": 100 * sum(r.status != OK for r in replies) / len(replies),
        "n_problems": len(questions),
        "n_samples": n_samples,
        "by_problem": dict(zip([q.problem_id for q in questions], means.tolist(), strict=True)),
    }


def effect_sentences(effect: pd.DataFrame) -> list[str]:
    """Per budget whether the trained head does better than each score that knows less, on the same problems.

    P-values are Holm-adjusted over all comparisons.

    Args:
        effect: of `generate_by_score`.
    """
    budgets = effect.dropna(subset="budget_tokens")
    values = {(row.kind, int(row.budget_tokens)): row.by_problem for row in budgets.itertuples()}
    pairs = {
        (f"{SHIPPED} at {budget:,} tokens", kind): paired_comparison(values[SHIPPED, budget], own)
        for (kind, budget), own in values.items()
        if kind != SHIPPED and len(own) > 1
    }
    if not pairs:
        return ["A single problem says nothing."]
    p_values = holm({repr(names): found.p_value for names, found in pairs.items()})
    return [difference_sentence(*names, found, p_values[repr(names)]) for names, found in pairs.items()]


def fidelity_sentences(bent: pd.DataFrame) -> list[str]:
    """Per budget how often the compressed model's most likely token is the full cache's, by the quality of the scores.

    Args:
        bent: of `fidelity_by_score`.
    """
    agrees = bent[bent.measure == "agrees"]
    found = []
    for budget, part in agrees.groupby("budget_tokens", sort=True):
        n_traces = part.n_traces.min()
        each = [
            f"{100 * row.mean:.1f} % [{100 * row.lo:.1f}, {100 * row.hi:.1f}] ({row.kind})"
            for row in part.sort_values("mean", ascending=False).itertuples(index=False)
        ]
        few = "" if n_traces >= FEW_PROBLEMS else "; so few say little"
        found.append(
            f"At {budget:,} tokens the most likely token is the full cache's in {', '.join(each)}: {n_traces} known "
            f"replies{few}."
        )
    return found


def finished_traces(replies: Iterable[Completion]) -> list[KnownTrace]:
    """Finished full-cache replies with an answer, as traces to follow."""
    return [trace for reply in replies if (trace := KnownTrace.of(reply)) is not None]


def fidelity_by_score(
    model,
    tokenizer,
    traces: Sequence[KnownTrace],
    budgets: Iterable[int],
    head: ImportancePredictor,
    *,
    window: int = 32,
    ratio: float = 0.75,
    seed: int = 42,
    think: ThinkTags | None = None,
) -> pd.DataFrame:
    """How far every kind of `FIDELITY_KINDS` bends the model along finished traces, at every budget.

    The oracle ranks by the true labels, which no method can know while generating; it bounds what any predictor of
    these labels can reach under this rule.

    Returns:
        Columns kind, budget_tokens, measure (of `FIDELITY_MEASURES`), mean, lo, hi (bootstrap over traces), n_traces.
    """
    labels = oracle_traces(model, "oracle_answer", traces)
    reference = {trace.key: reference_hidden(model, trace) for trace in traces}
    think, rows = think or ThinkTags.of(tokenizer), []
    for budget in budgets:
        for kind in FIDELITY_KINDS:
            method = _method_of(kind, budget, head, window, ratio, seed, traces=labels)
            frame = measure_fidelity(model, traces, method, think=think, seed=seed, reference=reference, batch_rows=64)
            found = summarise_fidelity(frame)
            cell = {"kind": kind, "budget_tokens": budget}
            rows += [{**cell, "measure": measure, **bootstrap(found[measure])} for measure in FIDELITY_MEASURES]
    return pd.DataFrame(rows)
