"""Train ForesightKV's eviction judge on a frozen model: what past attention says about attention to come."""

from __future__ import annotations

import random
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...bars import progress_bar
from ...cache.shape import CacheShape
from ...errors import KvreproError
from ...methods.learned.judge import FEATURES, EvictionJudge
from ..traces import Trace
from .examples import EvictionExample, eviction_examples

BLOCK_SUM, RUNNING_SUM = 2, 6  # their places among the eight features of a query head (`attention_features`)


@dataclass(frozen=True)
class JudgeRecipe:
    """Everything that determines the judge besides model, code and versions.

    Source: ForesightKV, arXiv 2602.03203, `supervised_training`; docs/predictor.md#eviction-judge (margin, Adam,
    learning rate, cosine, steps and batch are the published ones).
    Deviates: the published blocks are 256 queries and the budget 1,024 slots for traces of thousands of tokens; here
    both are drawn for every trace, so that one judge serves a range of budgets and periods. Supervised training
    only: the reinforcement learning (GRPO) that follows it in the paper is left out.
    """

    periods: tuple[int, int] = (16, 48)  # queries per block
    budgets: tuple[float, float] = (0.4, 0.8)  # of the trace's length, but at least the prompt and two periods
    examples_per_sequence: int = 3
    steps: int = 1000
    batch_examples: int = 4
    lr: float = 1e-2
    margin: float = 0.01
    seed: int = 0


def pairwise_hinge(scores: Tensor, future: Tensor, margin: float) -> Tensor:
    """Mean of `max(0, margin + e_i - e_j)` over all pairs in which slot `i` has more future attention than slot `j`.

    Args:
        scores: `[..., S]`, eviction scores `e` (high: drop).
        future: `[..., S]`.

    Source: ForesightKV, arXiv 2602.03203; docs/predictor.md#eviction-judge.
    """
    ordered = future[..., :, None] > future[..., None, :]
    loss = (margin + scores[..., :, None] - scores[..., None, :]).clamp(min=0)
    return (loss * ordered).sum() / ordered.sum().clamp(min=1)


def drawn_examples(
    model: PreTrainedModel, sequence: Trace, recipe: JudgeRecipe, rng: random.Random
) -> list[EvictionExample]:
    """Some evictions of a trace under a period and a budget drawn for it; none if the trace is too short for one."""
    n_tokens, period = len(sequence.token_ids), rng.randint(*recipe.periods)
    lowest = max(sequence.thinking_from, 2 * period, int(recipe.budgets[0] * n_tokens))
    budget = rng.randint(lowest, max(lowest, int(recipe.budgets[1] * n_tokens)))
    found = eviction_examples(model, sequence, budget, period)
    return rng.sample(found, min(len(found), recipe.examples_per_sequence))


def collect_examples(
    model: PreTrainedModel, sequences: list[Trace], recipe: JudgeRecipe, seed: int
) -> list[EvictionExample]:
    """The drawn evictions of all sequences; they stay in memory.

    One takes `4 L H S (2 D + 8 G)` bytes for S competing slots: 1 MB for a tiny model, 300 MB for an 8B model at 1,024.

    Raises:
        KvreproError: no sequence is long enough for an eviction.
    """
    rng = random.Random(seed)
    found = [
        m
        for sequence in progress_bar(sequences, desc="evictions")
        for m in drawn_examples(model, sequence, recipe, rng)
    ]
    if not found:
        raise KvreproError(
            f"none of {len(sequences)} sequences is long enough for an eviction: it needs its prompt, or "
            f"{2 * recipe.periods[0]} tokens, and {recipe.periods[0]} more"
        )
    return found


def train_judge(
    model: PreTrainedModel, train: list[Trace], held_out: list[Trace], recipe: JudgeRecipe
) -> tuple[EvictionJudge, dict[str, object]]:
    """Fit a judge and compare it with simple rules on held-out sequences; returns the judge and its card.

    The model runs once per sequence and only the judge's weights change.

    Raises:
        KvreproError: no sequence is long enough for an eviction.
    """
    started = time.monotonic()
    shape = CacheShape.of(model.config)
    examples = collect_examples(model, train, recipe, recipe.seed)
    scored_on = collect_examples(model, held_out, recipe, recipe.seed + 1)
    torch.manual_seed(recipe.seed)
    judge = EvictionJudge(shape.layers, shape.kv_heads, shape.head_dim, shape.q_heads // shape.kv_heads)
    judge.to(model.device)
    optimizer = torch.optim.Adam(judge.parameters(), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    rng, curve = random.Random(recipe.seed), []
    for step in progress_bar(range(recipe.steps), desc="judge"):
        total = 0.0
        for example in rng.choices(examples, k=recipe.batch_examples):
            scores = judge(example.features[:, None], slice(None))[:, 0]
            loss = pairwise_hinge(scores, example.future, recipe.margin) / recipe.batch_examples
            loss.backward()
            total += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % max(1, recipe.steps // 20) == 0 or step == recipe.steps - 1:
            curve.append(round(total, 5))
    card = {
        "recipe": asdict(recipe),
        "n_train_sequences": len(train),
        "n_train_examples": len(examples),
        "loss_by_twentieth": curve,
        "held_out": {"n_sequences": len(held_out), **score_judge(judge, scored_on, recipe.seed)},
        "train_s": round(time.monotonic() - started, 1),
    }
    return judge.eval(), card


@torch.no_grad()
def score_judge(judge: EvictionJudge, examples: list[EvictionExample], seed: int = 0) -> dict[str, object]:
    """How well eviction scores order slots, and what they lose, beside simple rules, on the same evictions.

    Returns:
        Per rule `pairwise_accuracy` (share of pairs with different future attention that are in the right order;
        0.5 is chance) and `lost_share` (future attention of what an eviction would drop, as a share of all that
        competes; `oracle` is the least possible), means over evictions, layers and heads.
    """
    generator = torch.Generator().manual_seed(seed)
    by_rule: dict[str, list[Tensor]] = {}
    for example in examples:
        for name, scores in _rules(judge, example, generator).items():
            by_rule.setdefault(name, []).append(_agreement(scores, example))
    accuracy, lost = (
        {name: round(torch.stack(rows).mean(0)[i].item(), 4) for name, rows in by_rule.items()} for i in (0, 1)
    )
    del accuracy["oracle"]
    return {"n_evictions": len(examples), "pairwise_accuracy": accuracy, "lost_share": lost}


def _rules(judge: EvictionJudge, example: EvictionExample, generator: torch.Generator) -> dict[str, Tensor]:
    """Eviction scores `[L, H, S]` by name: the judge's and those of rules that need no training."""
    attention = example.features[..., 2 * judge.sizes["head_dim"] :].unflatten(-1, (-1, FEATURES))
    return {
        "judge": judge(example.features[:, None], slice(None))[:, 0],
        "random": torch.rand(example.future.shape, generator=generator).to(example.future.device),
        "recency": -example.positions.float(),
        "running_sum": -attention[..., RUNNING_SUM].sum(-1),
        "block_sum": -attention[..., BLOCK_SUM].sum(-1),
        "oracle": -example.future,
    }


def _agreement(scores: Tensor, example: EvictionExample) -> Tensor:
    """`[2]`: pairwise accuracy, and the share of future attention that leaves with the highest scores."""
    ordered = example.future[..., :, None] > example.future[..., None, :]
    difference = scores[..., None, :] - scores[..., :, None]
    right = ((difference > 0).float() + 0.5 * (difference == 0).float())[ordered].mean()
    dropped = scores.topk(example.n_dropped, dim=-1).indices
    lost = example.future.gather(-1, dropped).sum(-1) / example.future.sum(-1)
    return torch.stack([right, lost.mean()])
