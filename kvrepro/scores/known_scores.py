"""Published numbers: full-cache scores, and what the paper's two figures show; is a run of ours far from them?"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_FILE = Path(__file__).with_name("known_scores.csv")
# read off the paper's figures: model, benchmark, kv_budget_tokens, pass_at_1_percent, throughput_tps
PAPER_BUDGET_CURVES = Path(__file__).with_name("paper_budget_curves.csv")
# points; prompt, seed and order of options alone move scores by several points (arXiv 2504.07086, 2506.04734)
TOLERANCE_POINTS = 5.0


@dataclass(frozen=True)
class KnownScore:
    """One published number, in points."""

    model: str
    benchmark: str
    metric: str
    score: float
    source: str


@dataclass(frozen=True)
class Deviation:
    """A run against the closest published number. `distance` is ours - published, in points."""

    known: KnownScore
    distance: float
    is_flagged: bool


def known_scores(model: str | None = None, benchmark: str | None = None) -> list[KnownScore]:
    """Published pass@1 scores that match; an empty list if there are none."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        rows = [KnownScore(**{**row, "score": float(row["score"])}) for row in csv.DictReader(file)]
    return [
        row
        for row in rows
        if row.metric == "pass@1" and model in (None, row.model) and benchmark in (None, row.benchmark)
    ]


def deviation(score: float, lo: float, hi: float, known: Sequence[KnownScore]) -> Deviation | None:
    """Compare a full-cache run with the closest published score; None if nothing is published.

    Args:
        score, lo, hi: pass@1 and its interval as fractions.
        known: of `known_scores`, for the run's model and benchmark.

    Flagged only if the published score is outside the interval *and* more than `TOLERANCE_POINTS` away. At 16k tokens a
    few points less than published are expected on AIME: read the truncated share beside it.
    """
    if not known:
        return None
    nearest = min(known, key=lambda entry: abs(100 * score - entry.score))
    distance = 100 * score - nearest.score
    is_outside = not 100 * lo <= nearest.score <= 100 * hi
    return Deviation(nearest, distance, is_outside and abs(distance) > TOLERANCE_POINTS)
