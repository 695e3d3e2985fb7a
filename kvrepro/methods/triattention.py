"""TriAttention: what a head's average query, known in advance, would attend to at coming distances."""

from __future__ import annotations

from dataclasses import field

import torch
from torch import Tensor

from ..cache.slots import CompressedCache
from .base import EvictionMethod
from .learned.query_statistics import QueryStatistics
from .views import EvictionView, layers_of

# distances into the future that the score averages over: 1, 2, 4 ... 65536
N_DISTANCES = 17


def trigonometric_scores(
    keys: Tensor,
    ages: Tensor,
    statistics: QueryStatistics,
    layers: slice,
    frequencies: Tensor,
    scaling: Tensor | float,
) -> Tensor:
    """Expected logit of each key for the average query of each head, `[l, R, H, G, S]` float32.

    Args:
        keys: `[l, R, H, S, D]`, rotation undone, channel `f` paired with `f + D/2`.
        ages: `[l or 1, R, H or 1, S]`, tokens seen so far minus the key's position: 1 for the newest.
        frequencies: `[D/2]`, or `[l, 1, 1, 1, D/2]` where layers differ; radians per position.
        scaling: the rotation's factor on cos and sin; like the frequencies.

    Source: TriAttention, arXiv 2604.04921; docs/methods.md#triattention.
    """
    half = keys.shape[-1] // 2
    key = torch.complex(keys[..., :half].float(), keys[..., half:].float())
    there = statistics.on(keys.device)
    mean, mean_size = (x[layers].unflatten(1, (key.shape[2], -1)) for x in (there.mean, there.mean_size))
    # the sum over channels of |E q||k| cos(w (age + distance) + phase) is the real part of E q conj(k) e^(iw(age +
    # distance)), where the average over distances is one complex number per channel
    distances = (1 << torch.arange(N_DISTANCES, device=keys.device)).float()
    mean_phase = torch.polar(torch.ones_like(frequencies[..., None]), frequencies[..., None] * distances).mean(-1)
    angles = ages[..., None].float() * frequencies
    shifted = key.conj() * torch.polar(torch.ones_like(angles), angles) * (mean_phase * scaling**2)
    wave = torch.einsum("lhgf,lrhsf->lrhgs", mean, shifted).real
    return wave + torch.einsum("lhgf,lrhsf->lrhgs", mean_size - mean.abs(), key.abs() * scaling**2)


class TriAttentionMethod(EvictionMethod):
    """Standardised expected logits, max over the query group, mean over layers: one kept set per KV head.

    Attributes:
        calibration: `QueryStatistics` of the model, measured on text beforehand (`kvrepro calibrate`).
        per_layer: rank in every layer on its own instead of averaging over layers.

    Source: TriAttention, arXiv 2604.04921, `triattention/methods/pruning_utils.py`; docs/methods.md#triattention.
    Deviates: every row is scored by itself (the original scores row 0 for the batch); a prompt that does not fit is
    refused instead of cut.
    """

    name = "triattention"
    source = "arXiv 2604.04921"
    needs = ("calibration",)
    needs_rotary = True

    granularity: str = "head"
    pin_question: bool = True
    calibration: QueryStatistics | None = field(default=None, repr=False, compare=False)
    per_layer: bool = False

    def prepare(self, cache: CompressedCache) -> None:
        """Nothing is carried; statistics of another model are refused before anything is generated."""
        self.calibration.check(cache.shape)
        self.calibration.on(cache.kv.device)

    def score_layers(self, view: EvictionView, layers: slice) -> Tensor:
        """`[l, R, H, S]`, standardised over the slots that compete."""
        rotary, positions = view.cache.rotary, layers_of(view.positions, layers)
        # the original counts from the position that the next token will take
        ages = view.seen[None, :, None, None] - positions
        keys = rotary.halves(rotary.unrotate(view.keys(layers), positions, layers=layers))
        scores = trigonometric_scores(keys, ages, self.calibration, layers, *rotary.rates(layers))
        # the prompt and the window do not compete, so they do not set the scale
        counted = ~layers_of(view.is_question, layers)
        counted[..., self.candidates(view) :] = False
        weights = counted.float()[:, :, :, None] / counted.sum(-1, keepdim=True).clamp(min=1)[:, :, :, None]
        centred = scores - (scores * weights).sum(-1, keepdim=True)
        deviation = (centred.square() * weights).sum(-1, keepdim=True).sqrt().clamp_min(1e-12)
        return (centred / deviation).amax(3)

    def score(self, view: EvictionView) -> Tensor:
        """`[1, R, H, S]`, or `[L, R, H, S]` with `per_layer`."""
        scores = super().score(view)
        return scores if self.per_layer else scores.mean(0, keepdim=True)
