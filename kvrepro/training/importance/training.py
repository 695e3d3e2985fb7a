"""Train the importance predictor on cached hidden states: the backbone has run once, only the head is trained.

Source: DynTS, arXiv 2601.18383; docs/predictor.md#training-settings.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from ...bars import progress_bar
from ...errors import KvreproError, RunError
from ...files import write_atomic
from ...methods.learned.importance import ImportancePredictor, PredictorShape
from ..dataset import Example, LabelledTraces
from ..questions import HELD_OUT, TRAIN
from ..stages import TrainingState
from .loss import batch_loss, weighted_mse
from .ranking import rank_metrics
from .recipe import PredictorRecipe

STATE, LOG = "state.pt", "log.csv"


class PredictorTraining:
    """One training run: a head, its optimiser, its log, resumable after every epoch.

    Args:
        data: labelled traces; the split `train` is fitted, a quarter of `held_out` is scored after every epoch.
        folder: where state and log are kept while the run is unfinished; None keeps nothing.
        device: where the head is trained.

    The result depends on recipe, data, device and the number of threads, and on nothing else.
    """

    def __init__(self, data: LabelledTraces, recipe: PredictorRecipe, folder: Path | None = None, device: str = "cpu"):
        if not data.count(TRAIN):
            raise KvreproError(f"{data.folder} holds no training trace: {data.manifest['counts']}")
        if data.count(HELD_OUT) < 2:
            raise KvreproError(
                f"{data.folder} holds {data.count(HELD_OUT)} held-out traces: one decides when to stop and another is "
                "scored, so make at least 2"
            )
        self.data, self.recipe, self.folder, self.device = data, recipe, folder, device
        torch.manual_seed(recipe.seed)
        width = data.width
        widths = recipe.widths or (2 * width, width // 2)
        self.head = ImportancePredictor(PredictorShape(width, *widths)).to(device)
        self.optimizer = torch.optim.AdamW(
            self.head.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )
        self.steps_per_epoch = math.ceil(data.count(TRAIN) / recipe.batch_traces)
        parts = {"head": self.head, "optimizer": self.optimizer}
        self.state = TrainingState(folder and folder / STATE, recipe, parts)
        done = self.state.resume()
        self.epoch, self.log = done.get("epoch", 0), done.get("log", [])
        self.best: dict[str, Any] = done.get("best", {})

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 0, over all steps of the recipe."""
        total = self.recipe.epochs * self.steps_per_epoch
        warmup = max(1, int(self.recipe.warmup_share * total))
        if step < warmup:
            return self.recipe.lr * (step + 1) / warmup
        return self.recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def run(self) -> ImportancePredictor:
        """Train to the end and return the head: the best epoch's with early stopping, else the last."""
        patience = self.recipe.patience
        with progress_bar(total=self.recipe.epochs, initial=self.epoch, desc="head") as bar:
            # without a better held-out ranking for `patience` epochs no better one is expected
            while self.epoch < self.recipe.epochs and (
                patience is None or not self.best or self.epoch - self.best["epoch"] < patience
            ):
                row = self._epoch()
                self.log.append(row)
                self.epoch += 1
                tau = row["held_out_kendall_tau"]
                if patience is None or not self.best or tau > self.best["kendall_tau"]:
                    weights = {k: v.detach().cpu().clone() for k, v in self.head.state_dict().items()}
                    self.best = {"epoch": self.epoch, "kendall_tau": tau, "weights": weights}
                self.state.save(epoch=self.epoch, log=self.log, best=self.best)
                if self.folder is not None:
                    write_atomic(self.folder / LOG, pd.DataFrame(self.log).to_csv(index=False))
                bar.update()
                bar.set_postfix(loss=f"{row['train_loss']:.3f}", tau=f"{tau:.3f}")
        self.head.load_state_dict(self.best["weights"])
        return self.head.eval()

    def _epoch(self) -> dict[str, float]:
        started = time.monotonic()
        sums = self.train_epoch()
        if not math.isfinite(sums["loss"]):
            raise RunError(f"the loss of epoch {self.epoch + 1} is {sums['loss']}: lower lr, or check the labels")
        row = {"epoch": self.epoch + 1, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= {f"train_{name}": value for name, value in sums.items()}
        return {**row, "train_s": time.monotonic() - started, **self._held_out()}

    def train_epoch(self) -> dict[str, float]:
        """One pass over the training traces; returns the means of `loss`, `mse` and `ranking`."""
        # keyed by (seed, epoch), so that a resumed epoch sees the order and the pairs of an uninterrupted one
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.data.count(TRAIN), generator=generator)
        sums: Counter[str] = Counter()
        self.head.train()
        for number, batch in enumerate(order.split(self.recipe.batch_traces)):
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(self.epoch * self.steps_per_epoch + number)
            for name, value in self._step(batch, generator).items():
                sums[name] += value * len(batch) / len(order)
        return dict(sums)

    def _step(self, batch: Tensor, generator: torch.Generator) -> Mapping[str, float]:
        """One optimiser step on the traces with these numbers; returns the means over them."""
        sums: Counter[str] = Counter()
        for micro in batch.split(self.recipe.micro_traces):
            examples = [self._drawn(e, generator) for e in self.data.examples(TRAIN, micro.tolist())]
            hidden, labels = zip(*examples, strict=True)
            # one product for all traces of the micro-batch
            predicted = self.head(torch.cat([h.to(self.device, torch.float32) for h in hidden]))
            parts = batch_loss(predicted.split([len(y) for y in labels]), labels, self.recipe, generator)
            share = len(micro) / len(batch)
            (parts["loss"] * share).backward()
            for name, value in parts.items():
                sums[name] += value.item() * share
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), self.recipe.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums

    def _drawn(self, example: Example, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Hidden states `[k, width]` and mapped labels `[k]` of the tokens that this step sees."""
        labels = self.recipe.targets(example.labels).to(self.device)
        if self.recipe.token_share == 1:
            return example.hidden, labels
        n_tokens = len(labels)
        count = max(1, round(self.recipe.token_share * n_tokens))
        chosen = torch.randperm(n_tokens, generator=generator)[:count]
        return example.hidden[chosen], labels[chosen.to(self.device)]

    @torch.inference_mode()
    def _held_out(self) -> dict[str, float]:
        self.head.eval()
        rows = []
        for example in self.data.examples(HELD_OUT, self.data.stopping_order()):
            labels = self.recipe.targets(example.labels).to(self.device)
            predicted = self.head(example.hidden.to(self.device, torch.float32))
            found = rank_metrics(predicted, example.labels)
            mse = weighted_mse(predicted, labels).item()
            rows.append((mse, found["kendall_tau"], found["top20_overlap"]))
        means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
        return dict(zip(("held_out_mse", "held_out_kendall_tau", "held_out_top20_overlap"), means, strict=True))
