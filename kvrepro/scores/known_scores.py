"""Published numbers: full-cache scores, and what the paper's two figures show; is a run of ours far from them?"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from .statistics import Interval

_FILE = Path(__file__).with_name("known_scores.csv")
# read off the paper's figures: model, benchmark, budget_tokens, pass_at_1 (percent), decode_tps
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


def known_scores(model: str | None = None, benchmark: str | None = None) -> list[KnownScore]:
    """Published pass@1 scores that match; an empty list if there are none."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        rows = [KnownScore(**{**row, "score": float(row["score"])}) for row in csv.DictReader(file)]
    return [
        row
        for row in rows
        if row.metric == "pass@1" and model in (None, row.model) and benchmark in (None, row.benchmark)
    ]


def is_far(published: KnownScore, run: Interval) -> bool:
    """Is a full-cache run so far from a published score that something must be wrong?

    Only if the score is outside the run's interval *and* more than `TOLERANCE_POINTS` away. At 16k tokens a few points
    less than published are expected on AIME: read the truncated share beside it.
    """
    is_outside = not 100 * run.lo <= published.score <= 100 * run.hi
    return is_outside and abs(100 * run.estimate - published.score) > TOLERANCE_POINTS
