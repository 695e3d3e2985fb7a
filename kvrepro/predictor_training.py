"""Train the importance predictor on a frozen model: labels from full-cache traces, then a small regression.

The backbone runs once per trace; its hidden states are kept and only the head is trained (METHODS.md 3.6).
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .labels import label_trace
from .predictor import ImportancePredictor, PredictorShape
from .traces import Trace

TOP_SHARE = 0.2


@dataclass(frozen=True)
class PredictorRecipe:
    """Everything that determines the head besides model, code and versions.

    The label map is the one DynTS uses for R1-Qwen, `(10 / 0.3) * y ** 0.3` (METHODS.md 3.3), for both tiny
    models: it is monotone, and short traces have labels so large that R1-Llama's `1e4 * y` would reach the hundreds.
    """

    n_traces: int = 500
    n_held_out: int = 100
    sizes: tuple[int, int] = (8, 22)  # variables
    epochs: int = 20
    batch_tokens: int = 1024
    lr: float = 2e-3
    weight_decay: float = 0.01
    seed: int = 0


def map_labels(labels: Tensor) -> Tensor:
    """`(10 / 0.3) * y ** 0.3`. Source: DynTS `verl_sft_fsdp.py`, R1-Qwen; METHODS.md 3.3."""
    return (10 / 0.3) * labels.clamp(min=0) ** 0.3


def thinking_examples(model, traces: list[Trace]) -> list[tuple[Tensor, Tensor]]:
    """Per trace: hidden states `[n, hidden]` and mapped labels `[n]` of its thinking tokens."""
    examples = []
    for trace in traces:
        labels, hidden = label_trace(model, trace.token_ids, trace.answer_from)
        thinking = slice(trace.thinking_from, trace.answer_from)
        examples.append((hidden[thinking].float().clone(), map_labels(labels[thinking]).clone()))
    return examples


def train_predictor(
    model, train_traces: list[Trace], held_out_traces: list[Trace], recipe: PredictorRecipe
) -> tuple[ImportancePredictor, dict[str, object]]:
    """Fit a head and score it on held-out traces; returns the head and its card."""
    from tqdm import tqdm

    started = time.monotonic()
    train = thinking_examples(model, train_traces)
    held_out = thinking_examples(model, held_out_traces)
    width = train[0][0].shape[1]
    torch.manual_seed(recipe.seed)
    predictor = ImportancePredictor(PredictorShape(width, 2 * width, width // 2))
    hidden, labels = torch.cat([h for h, _ in train]), torch.cat([y for _, y in train])
    optimizer = torch.optim.AdamW(
        predictor.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    steps = recipe.epochs * -(-len(labels) // recipe.batch_tokens)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(recipe.seed)
    curve = []
    for _ in tqdm(range(recipe.epochs), desc="predictor"):
        total = 0.0
        for batch in torch.randperm(len(labels), generator=generator).split(recipe.batch_tokens):
            loss = torch.nn.functional.mse_loss(predictor(hidden[batch]), labels[batch])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(predictor.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            total += loss.item() * len(batch)
        curve.append(round(total / len(labels), 4))
    card = {
        "recipe": asdict(recipe), "n_train_tokens": len(labels), "train_mse_by_epoch": curve,
        "held_out": score_predictor(predictor, held_out), "train_s": round(time.monotonic() - started, 1),
    }  # fmt: skip
    return predictor.eval(), card


@torch.inference_mode()
def score_predictor(predictor, examples: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean over traces of MSE, Kendall's tau-b, and how much of the true top 20 % the predicted top 20 % finds.

    `top_mass` is the share of a trace's (unmapped) label mass that lies on the true top 20 %.
    """
    from scipy.stats import kendalltau

    rows = []
    for hidden, labels in examples:
        predicted = predictor(hidden)
        k = max(1, int(TOP_SHARE * len(labels)))
        true_top = set(labels.topk(k).indices.tolist())
        found = len(true_top & set(predicted.topk(k).indices.tolist())) / k
        raw = (labels * 0.3 / 10) ** (1 / 0.3)
        rows.append(
            (
                torch.nn.functional.mse_loss(predicted, labels).item(),
                kendalltau(predicted.numpy(), labels.numpy()).statistic,
                found,
                (raw.topk(k).values.sum() / raw.sum()).item(),
            )
        )
    means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    names = ("mse", "kendall_tau", "top20_overlap", "top20_mass")
    return {"n_traces": len(rows), **{name: round(value, 4) for name, value in zip(names, means, strict=True)}}
