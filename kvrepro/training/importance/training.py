"""Train the importance predictor on cached hidden states: the backbone has run once, only the head is trained.

Source: DynTS, arXiv 2601.18383; docs/predictor.md#training-settings.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

from ...errors import KvreproError, RunError
from ...files import write_atomic
from ...methods.learned.importance import ImportancePredictor, PredictorShape
from ..dataset import Example, LabelledTraces
from ..questions import HELD_OUT, TRAIN
from ..stages import load_state, save_state
from .label_maps import map_labels
from .loss import batch_loss, weighted_mse
from .ranking import rank_metrics
from .recipe import PredictorRecipe

STATE, LOG = "state.pt", "log.csv"


def mapped_labels(example: Example, recipe: PredictorRecipe, device: torch.device | str = "cpu") -> torch.Tensor:
    """Targets `[m]` float32: raw labels rounded to the recipe's dtype and mapped (docs/predictor.md#label-maps)."""
    rounded = example.labels.to(getattr(torch, recipe.label_dtype))
    return map_labels(rounded, recipe.label_map).float().to(device)


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
        self.epoch, self.log = 0, []
        self.best: dict[str, Any] = {}
        self._resume()

    @property
    def is_finished(self) -> bool:
        """True after the last epoch, or once held-out ranking has not improved for `patience` epochs."""
        waited = self.epoch - self.best.get("epoch", self.epoch)
        return self.epoch >= self.recipe.epochs or (self.recipe.patience is not None and waited >= self.recipe.patience)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to 0, over all steps of the recipe."""
        total = self.recipe.epochs * self.steps_per_epoch
        warmup = max(1, int(self.recipe.warmup_share * total))
        if step < warmup:
            return self.recipe.lr * (step + 1) / warmup
        return self.recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    def run(self) -> ImportancePredictor:
        """Train to the end and return the head: the best epoch's with early stopping, else the last."""
        with tqdm(total=self.recipe.epochs, initial=self.epoch, desc="head") as bar:
            while not self.is_finished:
                row = self._epoch()
                self.log.append(row)
                self.epoch += 1
                tau = row["held_out_kendall_tau"]
                if self.recipe.patience is None or not self.best or tau > self.best["kendall_tau"]:
                    weights = {k: v.detach().cpu().clone() for k, v in self.head.state_dict().items()}
                    self.best = {"epoch": self.epoch, "kendall_tau": tau, "weights": weights}
                self._save()
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
        recipe = self.recipe
        # keyed by (seed, epoch), so that a resumed epoch sees the order and the pairs of an uninterrupted one
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.data.count(TRAIN), generator=generator).tolist()
        sums = dict.fromkeys(("loss", "mse", "ranking"), 0.0)
        self.head.train()
        for number in range(self.steps_per_epoch):
            batch = order[number * recipe.batch_traces : (number + 1) * recipe.batch_traces]
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(self.epoch * self.steps_per_epoch + number)
            parts = self._step(batch, generator)
            for name in sums:
                sums[name] += parts[name] * len(batch) / len(order)
        return sums

    def _step(self, batch: list[int], generator: torch.Generator) -> dict[str, float]:
        recipe, sums = self.recipe, dict.fromkeys(("loss", "mse", "ranking"), 0.0)
        for start in range(0, len(batch), recipe.micro_traces):
            micro = batch[start : start + recipe.micro_traces]
            examples = [self._drawn(e, generator) for e in self.data.examples(TRAIN, micro)]
            # one product for all traces of the micro-batch
            hidden = torch.cat([hidden.to(self.device, torch.float32) for hidden, _ in examples])
            predicted = self.head(hidden).split([len(labels) for _, labels in examples])
            parts = batch_loss(list(predicted), [labels for _, labels in examples], recipe, generator)
            share = len(micro) / len(batch)
            (parts["loss"] * share).backward()
            for name in sums:
                sums[name] += parts[name].item() * share
        torch.nn.utils.clip_grad_norm_(self.head.parameters(), recipe.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums

    def _drawn(self, example: Example, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states `[k, width]` and mapped labels `[k]` of the tokens that this step sees."""
        labels = mapped_labels(example, self.recipe, self.device)
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
            labels = mapped_labels(example, self.recipe, self.device)
            predicted = self.head(example.hidden.to(self.device, torch.float32))
            found = rank_metrics(predicted, example.labels)
            mse = weighted_mse(predicted, labels).item()
            rows.append((mse, found["kendall_tau"], found["top20_overlap"]))
        means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
        return dict(zip(("held_out_mse", "held_out_kendall_tau", "held_out_top20_overlap"), means, strict=True))

    def _save(self) -> None:
        if self.folder is None:
            return
        states = {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_state(self.folder / STATE, self.recipe, **states, epoch=self.epoch, log=self.log, best=self.best)
        write_atomic(self.folder / LOG, pd.DataFrame(self.log).to_csv(index=False))

    def _resume(self) -> None:
        state = None if self.folder is None else load_state(self.folder / STATE, self.recipe, self.device)
        if state is not None:
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.epoch, self.log, self.best = state["epoch"], state["log"], state["best"]
