"""One comparison: a few methods at equal budget on the same problems and noise, and what their differences came to.

The first method is the one that is asked about: it is compared with every other, and all of them with the full cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ..benchmarks.table import benchmark_entry
from ..errors import KvreproError
from ..methods.table import create_schedule
from ..runs.profiles import Profile
from ..scores.power import PowerModel
from ..scores.sentences import FEW_DIFFERING, FEW_PROBLEMS, SIGNIFICANCE, difference_sentence, p_text
from ..scores.statistics import PairedDifference, holm, paired_comparison
from .method_table import FULL, ScoredCell, explain_protocol, scored_cells

POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """Two methods on the same problems; `p_value` is adjusted over all `n_differences` of its kind."""

    name: str
    other: str
    budget: int
    n_samples: int
    benchmark: str
    found: PairedDifference
    p_value: float
    n_differences: int

    @property
    def is_told(self) -> bool:
        """Whether the problems can tell the two apart."""
        return self.p_value < SIGNIFICANCE and self.found.n_differing >= FEW_DIFFERING

    @property
    def sentence(self) -> str:
        """What it came to; where interval and p-value seem to disagree, why."""
        told = difference_sentence(self.name, self.other, self.found, self.p_value)
        excludes_0 = self.found.lo > 0 or self.found.hi < 0
        if self.p_value < SIGNIFICANCE or not excludes_0 or self.found.n_problems < FEW_PROBLEMS:
            return told
        return f"{told} The interval is of this difference alone; p is adjusted over all {self.n_differences}."

    @property
    def problems_needed(self) -> int | None:
        """Problems on which a true difference as large as this one is found with 80 % chance, at p < 0.05 over all.

        More than there were where it was not told: the bound is Bonferroni's, the largest that Holm's method asks for.
        None where the problems do not say: all differences are equal, their mean is 0, or no number is enough.
        """
        # with as many samples as here, so the two parts of the variance need not be told apart
        variance = self.found.n_problems * self.found.stderr**2
        if variance == 0 or self.found.difference == 0:
            return None
        try:
            model, alpha = PowerModel(between=variance, within=0.0), SIGNIFICANCE / self.n_differences
            return model.problems_needed(abs(self.found.difference), self.n_samples, POWER, alpha)
        except KvreproError:
            return None

    @property
    def power_sentence(self) -> str:
        """How many problems it would take, where it could not be told; empty where it was."""
        if self.is_told:
            return ""
        pair, points = f"{self.name} and {self.other}", f"{abs(100 * self.found.difference):.1f} points"
        if (n := self.problems_needed) is None:
            return f"How many problems would tell {pair} apart, these {self.found.n_problems} do not say."
        among = f" among {self.n_differences} comparisons" if self.n_differences > 1 else ""
        there = benchmark_entry(self.benchmark).n_problems
        way = f"; {self.benchmark} has {there}, so more samples or another benchmark" if n > there else ""
        return (
            f"If {points} is the true difference of {pair}, some {n:,} problems with {self.n_samples} "
            f"{'sample' if self.n_samples == 1 else 'samples'} each show it{among} with {100 * POWER:.0f} % "
            f"chance{way}."
        )


@dataclass(frozen=True)
class Comparison:
    """The finished cells of one model and benchmark, and their differences.

    Attributes:
        first: label of the method that is asked about.
        to_others: it minus every other compressed method, budget by budget.
        to_full: every compressed method minus the full cache.
    """

    cells: tuple[ScoredCell, ...]
    first: str
    to_others: tuple[Difference, ...]
    to_full: tuple[Difference, ...]

    @classmethod
    def of(cls, profile: Profile) -> list[Comparison]:
        """A comparison per model and benchmark of a profile with finished cells, in its order.

        Raises:
            KvreproError: no finished cell, or cells of both protocols, whose budgets mean different things.
        """
        cells = scored_cells(profile)
        if not cells:
            raise KvreproError(f"{profile.name} has no finished cell to compare: run `kvrepro grid {profile.name}`")
        explain_protocol(pd.DataFrame([cell.row for cell in cells]))
        panels: dict[tuple[str, str], list[ScoredCell]] = {}
        for cell in cells:
            panels.setdefault((cell.config.model, cell.config.benchmark), []).append(cell)
        firsts = {(c.model, c.benchmark): c.label for c in reversed(profile.cells) if c.method != FULL}
        return [_comparison(panel, firsts.get(key, FULL)) for key, panel in panels.items()]

    @property
    def model(self) -> str:
        """The model's name; of a folder its last part."""
        return self.cells[0].config.model.rstrip("/").rsplit("/", 1)[-1]

    @property
    def benchmark(self) -> str:
        """What it was measured on."""
        return self.cells[0].config.benchmark

    @property
    def n_problems(self) -> int:
        """Problems that every method answered."""
        return len(self.cells[0].by_problem)

    @property
    def sizes(self) -> str:
        """Window and tokens between evictions at every budget, and whose they are where methods differ in them."""
        found: dict[int, dict[str, list[str]]] = {}
        for cell in self.cells:
            config = cell.config
            sizes = (config.budget, config.window, config.ratio, config.evict_every, config.protocol)
            if (schedule := create_schedule(config.method_name, *sizes)) is not None:
                text = f"window {schedule.window}, evict_every {schedule.period_steps}"
                found.setdefault(config.budget, {}).setdefault(text, []).append(config.label)
        lines = []
        for budget, texts in found.items():
            each = [text if len(texts) == 1 else f"{text} ({', '.join(labels)})" for text, labels in texts.items()]
            lines.append(f"budget {budget}: {' or '.join(each)}")
        return "; ".join(lines)

    @property
    def table(self) -> pd.DataFrame:
        """One row per method and budget, the full cache first.

        Columns: label, budget_tokens, pass_at_1, pass_at_1_lo, pass_at_1_hi (percent, 95 %), n_problems, n_samples,
        kv_tokens_peak (the most slots that a row held), run_tps (of the run, with whatever ran beside it), then
        `first_minus` (the first method minus this one) and `minus_full`, each with `_lo`, `_hi` (points, 95 %) and
        `_p` (Holm-adjusted).
        """
        names = ["label", "budget_tokens", "pass_at_1", "pass_at_1_lo", "pass_at_1_hi", "n_problems", "n_samples"]
        frame = pd.DataFrame([cell.row for cell in self.cells])[[*names, "kv_tokens_peak", "run_tps"]]
        frame["budget_tokens"] = frame.budget_tokens.astype("Int64")
        for column, found in (("first_minus", self.to_others), ("minus_full", self.to_full)):
            by_row = {(d.other if column == "first_minus" else d.name, d.budget): d for d in found}
            mine = [by_row.get((label, b)) for label, b in zip(frame.label, frame.budget_tokens, strict=True)]
            values = [(np.nan,) * 4 if d is None else (*d.found.points, d.p_value) for d in mine]
            frame[[column, f"{column}_lo", f"{column}_hi", f"{column}_p"]] = np.array(values, dtype=float)
        return frame

    @property
    def shown(self) -> pd.DataFrame:
        """The table as text, for people to read."""

        def difference(row: dict[str, Any], name: str) -> str:
            if pd.isna(row[name]):
                return "-"
            lo, hi, p_value = (row[f"{name}_{end}"] for end in ("lo", "hi", "p"))
            return f"{row[name]:+.1f} [{lo:+.1f}, {hi:+.1f}] p {p_text(p_value)}"

        return pd.DataFrame(
            {
                "method": row["label"],
                "budget": "-" if pd.isna(row["budget_tokens"]) else str(row["budget_tokens"]),
                "Pass@1": f"{row['pass_at_1']:.1f} [{row['pass_at_1_lo']:.1f}, {row['pass_at_1_hi']:.1f}]",
                f"{self.first} minus it": difference(row, "first_minus"),
                "minus full": difference(row, "minus_full"),
                "most slots": str(row["kv_tokens_peak"]),
                "tokens/s": f"{row['run_tps']:,.0f}",
            }
            for row in self.table.to_dict("records")
        )

    @property
    def sentences(self) -> list[str]:
        """What came out: the first method beside the others, all beside the full cache, what more problems would do."""
        budgets = list(dict.fromkeys(d.budget for d in (*self.to_others, *self.to_full)))
        lines = []
        for budget in budgets:
            idle = self._idle(budget)
            others, full = ([d for d in found if d.budget == budget] for found in (self.to_others, self.to_full))
            power = [d.power_sentence for d in others if not {d.name, d.other} & set(idle)]
            told = [*(d.sentence for d in others), *power, *(d.sentence for d in full)]
            lines += [f"Budget {budget}: {line}" if len(budgets) > 1 else line for line in told if line]
            lines += [
                f"Nothing was evicted from {label} at budget {budget}: no reply grew that long; lower the budget."
                for label in idle
            ]
        return lines

    def _idle(self, budget: int) -> list[str]:
        """Methods that evicted nothing at this budget, so that there is nothing to tell apart."""
        return [c.config.label for c in self.cells if c.config.budget == budget and c.row["evictions"] == 0]


def _comparison(cells: Sequence[ScoredCell], first: str) -> Comparison:
    compressed = [cell for cell in cells if cell.config.method != FULL]
    full = [cell for cell in cells if cell.config.method == FULL]
    asked = {cell.config.budget: cell for cell in compressed if cell.config.label == first}
    others = [cell for cell in compressed if cell.config.label != first and cell.config.budget in asked]
    return Comparison(
        tuple(cells),
        first,
        _differences([(asked[cell.config.budget], cell) for cell in others]),
        _differences([(cell, base) for cell in compressed for base in full]),
    )


def _differences(pairs: Sequence[tuple[ScoredCell, ScoredCell]]) -> tuple[Difference, ...]:
    """The pairs' differences, their p-values adjusted together."""
    found = [paired_comparison(one.by_problem, other.by_problem) for one, other in pairs]
    adjusted = holm({str(i): d.p_value for i, d in enumerate(found)}) if found else {}
    return tuple(
        Difference(
            one.config.label,
            other.config.label,
            one.config.budget,
            one.config.n_samples,
            one.config.benchmark,
            difference,
            adjusted[str(i)],
            len(pairs),
        )
        for i, ((one, other), difference) in enumerate(zip(pairs, found, strict=True))
    )
