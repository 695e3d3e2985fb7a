"""Recipes: the published settings of the importance predictor, and those that we find better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import rankdata
from torch import Tensor

from ...checks import changed_fields
from ...errors import KvreproError, check_known
from ...methods.learned.folder import PUBLISHED_WIDTHS

# label map per model (docs/predictor.md#label-maps); the tiny models follow their big namesakes
PUBLISHED_MAPS = {"r1-llama": "llama", "r1-qwen": "qwen", "tiny-r1-llama": "llama", "tiny-r1-qwen": "qwen"}
RECIPES = ("best", "published")
LABEL_DTYPES = ("float32", "bfloat16")
LOG_FLOOR = 1e-6  # raw labels below it are not told apart by the `log` map


def rank_map(labels: Tensor) -> Tensor:
    """Ten times the rank within the trace, in [0, 10]; equal labels share the mean of their ranks. Ours."""
    # from 0 to 2 (n - 1): twice a shared rank is a whole number
    twice = torch.from_numpy(2 * rankdata(labels.float().cpu()) - 2).to(labels)
    return 10 * twice / max(1, 2 * (len(labels) - 1))


# monotone maps of the raw labels `[n]` of one trace's thinking tokens; the dtype stays
LABEL_MAPS: dict[str, Callable[[Tensor], Tensor]] = {
    # R1-Llama
    "llama": lambda labels: 1e4 * labels,
    # R1-Qwen and EXAONE
    "qwen": lambda labels: (10 / 0.3) * labels.clamp(min=0) ** 0.3,
    "rank": rank_map,
    # ours, ln(y / 1e-6): equal ratios of attention are equal distances
    "log": lambda labels: (labels.float().clamp(min=LOG_FLOOR) / LOG_FLOOR).log().to(labels.dtype),
}


@dataclass(frozen=True)
class PredictorRecipe:
    """Everything that determines a head besides model, labels, code and versions. The defaults are `best`.

    `best` was chosen on the tiny models' held-out traces: the ranking loss, which the published recipes multiply by 0,
    raises Kendall tau by 0.04 to 0.06 and no other setting did as much. Neighbouring tokens tell much the
    same, so a step sees a third of a trace: 60 such epochs cost what 30 whole ones do and rank a little better.

    Attributes:
        label_map: a name of `LABEL_MAPS`.
        label_dtype: raw labels are rounded to it before they are mapped.
        widths: of the two inner layers; None takes twice and half the hidden width.
        alpha: weight of the squared error; `1 - alpha` goes to the ranking loss, which is not computed at 1.
        tau: temperature of the ranking loss, in units of the mapped label.
        pairs: token pairs drawn per trace for the ranking loss; None takes all pairs, in chunks.
        emphasis: (low, high, weight): mapped labels in [low, high) count `weight` times; None for none.
        token_share: part of a trace's thinking tokens that a step sees, drawn anew every time; 1 takes all. Labels are
            mapped over the whole trace before.
        batch_traces: traces per optimiser step. micro_traces: of which this many are in memory at once.
        warmup_share: of all steps, linear; a cosine to 0 follows.
        patience: epochs without a better held-out Kendall tau after which training stops; None never stops and
            keeps the last weights.
    """

    name: str = "best"
    label_map: str = "qwen"
    label_dtype: str = "float32"
    widths: tuple[int, int] | None = None
    alpha: float = 0.05
    tau: float = 0.5
    pairs: int | None = 2048
    emphasis: tuple[float, float, float] | None = None
    lr: float = 3e-3
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    warmup_share: float = 0.1
    epochs: int = 60
    token_share: float = 1 / 3
    batch_traces: int = 4
    micro_traces: int = 4
    patience: int | None = 16
    seed: int = 0

    def __post_init__(self) -> None:
        check_known("label map", LABEL_MAPS, self.label_map)
        check_known("label dtype", LABEL_DTYPES, self.label_dtype)
        if not 0 <= self.alpha <= 1:
            raise KvreproError(f"alpha={self.alpha}: the weight of the squared error lies in [0, 1]")
        for field in ("epochs", "batch_traces", "micro_traces", "lr", "tau"):
            if getattr(self, field) <= 0:
                raise KvreproError(f"{field}={getattr(self, field)}: must be above 0")
        if not 0 < self.token_share <= 1:
            raise KvreproError(f"token_share={self.token_share}: a part of a trace's tokens lies in (0, 1]")
        if self.pairs is not None and self.pairs < 1:
            raise KvreproError(f"pairs={self.pairs}: draw at least one pair, or None for all")

    def targets(self, labels: Tensor) -> Tensor:
        """What the head learns `[n]` float32: raw labels rounded and mapped.

        Source: DynTS `verl_sft_fsdp.py`; docs/predictor.md#label-maps.
        """
        return LABEL_MAPS[self.label_map](labels.to(getattr(torch, self.label_dtype))).float()


def published_recipe(model: str, hidden: int | None = None) -> PredictorRecipe:
    """The repository's settings, exactly.

    Source: DynTS `recipes/sft/*.sh`, `recipes/configs/sft_trainer.yaml`; docs/predictor.md#training-settings. Both
    recipes set alpha = 1, so the ranking loss counts for nothing.
    Deviates: not computed where its weight is 0; the head of a tiny model (`hidden` below 1024) is twice and half as
    wide as the hidden state, as the published one is for hidden 4096, and its batch is 16 traces, or 15 epochs of
    some 500 traces would be 30 steps.

    Raises:
        KvreproError: a model for which nothing is published.
    """
    if model not in PUBLISHED_MAPS:
        raise KvreproError(
            f"no published recipe for {model!r}: label maps are known for {', '.join(PUBLISHED_MAPS)}; "
            "use recipe: best and choose label_map"
        )
    tiny = hidden is not None and hidden < 1024
    return PredictorRecipe(
        name="published",
        label_map=PUBLISHED_MAPS[model],
        label_dtype="bfloat16",
        widths=None if tiny else PUBLISHED_WIDTHS,
        alpha=1.0,
        pairs=None,
        emphasis=(4.0, 5.0, 5.0),
        lr=5e-4,
        epochs=15,
        token_share=1.0,
        batch_traces=16 if tiny else 256,
        patience=None,
        seed=2025,
    )


def make_recipe(name: str, model: str, hidden: int | None = None, /, **changes: Any) -> PredictorRecipe:
    """A recipe by name, with changes.

    Raises:
        UnknownNameError: no such recipe, or a setting that recipes do not have.
        KvreproError: a value of the wrong type or outside its range.
    """
    check_known("recipe", RECIPES, name)
    base = published_recipe(model, hidden) if name == "published" else PredictorRecipe()
    return changed_fields("training", base, changes)
