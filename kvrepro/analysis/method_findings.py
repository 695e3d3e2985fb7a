"""What a table of methods came to, in sentences: who is best, who is as good, and what the reference gains."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from ..models.table import model_entry
from ..scores.sentences import FEW_PROBLEMS, difference_sentence
from ..scores.statistics import paired_comparison
from .method_table import FULL, REFERENCE, ScoredCell, method_table

RIVALS = (FULL, "random")
# the reference without a part of it
ABLATIONS = (FULL, "dynts_noque", "dynts_nothink", "dynts_random", "dynts_bottom", "dynts_nolocal")
N_NAMED = 4  # rows that a sentence names, the rest is counted


def method_findings(cells: Sequence[ScoredCell], rivals: Sequence[str] = RIVALS) -> dict[str, list[str]]:
    """The best compressed method, who is as good, and the reference against its rivals, in sentences.

    Differences are paired over problems, p-values Holm-adjusted as in `method_table`, within the budget.

    Args:
        rivals: labels that the reference is compared with, beside the best; those without a cell are passed over.

    Returns:
        By `model, benchmark, budget`.
    """
    found = {}
    for title, panel in panels(cells):
        table = method_table(panel)
        found[title] = [best_sentence(table), *_reference_sentences(panel, table, rivals)]
    return found


def panels(cells: Sequence[ScoredCell]) -> Iterator[tuple[str, list[ScoredCell]]]:
    """By model, benchmark and budget a title, and the cells of it with the full cache's."""
    keys = dict.fromkeys((c.config.model, c.config.benchmark, c.config.budget) for c in cells)
    for model, benchmark, budget in keys:
        if budget is not None:
            mine = [c for c in cells if (c.config.model, c.config.benchmark) == (model, benchmark)]
            title = f"{model_entry(model).title}, {benchmark}, {budget:,} slots"
            yield title, [c for c in mine if c.config.budget in (None, budget)]


def best_sentence(table: pd.DataFrame, what: str = "methods") -> str:
    """The best compressed row of a panel and those not significantly below it.

    Args:
        table: rows of `method_table` of one model, benchmark and budget.
        what: the rows are, in the plural.
    """
    rows = table[table.method != FULL]
    best = rows[rows.is_best].iloc[0]
    if len(rows) == 1:
        return f"{best.label} has {_score(best)}."
    if best.n_problems < FEW_PROBLEMS:
        return f"{best.n_problems} problems say nothing about the order of {len(rows)} {what}."
    as_good = rows[rows.is_as_good & ~rows.is_best].sort_values("pass_at_1", ascending=False, kind="stable")
    text = f"Of {len(rows)} {what} the highest is {best.label} with {_score(best)}"
    if as_good.empty:
        return f"{text}; all others are significantly below it."
    return (
        f"{text}; not significantly below it: {_named([f'{r.label} {r.pass_at_1:.1f}' for r in as_good.itertuples()])}."
    )


def _score(row) -> str:
    return f"{row.pass_at_1:.1f} % [{row.pass_at_1_lo:.1f}, {row.pass_at_1_hi:.1f}]"


def _named(names: Sequence[str]) -> str:
    rest = len(names) - N_NAMED
    return ", ".join(names[:N_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _reference_sentences(panel: Sequence[ScoredCell], table: pd.DataFrame, rivals: Sequence[str]) -> list[str]:
    by_label = {cell.config.label: cell for cell in reversed(panel)}
    reference, rows = by_label.get(REFERENCE), table.drop_duplicates("label").set_index("label")
    if reference is None:
        return []
    best = table.label[table.is_best].to_list()
    found = []
    for name in dict.fromkeys([*best, *rivals]):
        if name in by_label and name != REFERENCE:
            difference = paired_comparison(reference.by_problem, by_label[name].by_problem)
            # the full cache has a comparison of its own, as in the table
            at = (REFERENCE, f"minus_{FULL}_p") if name == FULL else (name, f"minus_{REFERENCE}_p")
            found.append(difference_sentence(REFERENCE, name, difference, rows.loc[at]))
    return found


def average_findings(averages: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """The best means over several models and benchmarks and the reference's, and what a pinned question changes.

    Means are compared by their own intervals, which are not paired.

    Args:
        averages: of `method_table.average_table`.
        pairs: of `method_table.pinning_table`.
    """
    found = []
    if (n_sets := averages.n_sets.max()) > 1:
        rows = averages[averages.method != FULL].sort_values("pass_at_1", ascending=False, kind="stable")
        top = [f"{r.label} {_score(r)}" for r in rows[:3].itertuples()]
        text = f"Mean of {n_sets} models and benchmarks: the highest of {len(rows)} are {', '.join(top)}"
        ranks = {label: i for i, label in enumerate(rows.label, start=1)}
        if ranks.get(REFERENCE, 0) > len(top):
            own = rows[rows.label == REFERENCE].iloc[0]
            text += f"; {REFERENCE} is number {ranks[REFERENCE]} with {_score(own)}"
        found.append(f"{text}.")
    if len(pairs):
        found.append(_pinning(pairs.groupby("score", sort=False).gain.mean()))
    return found


def _pinning(gains: pd.Series) -> str:
    """Which scores gain and lose most, in the mean over panels."""
    up = gains[gains > 0].sort_values(ascending=False, kind="stable")
    down = gains[gains < 0].sort_values(kind="stable")
    text = f"Pinning the question raises the mean of {len(up)} of {len(gains)} scores"
    text += f", most {_named([f'{s} by {g:.1f} points' for s, g in up[:3].items()])}" if len(up) else ""
    return text + (f"; it lowers {_named([f'{s} by {-g:.1f}' for s, g in down.items()])}." if len(down) else ".")


def setting_findings(cells: Sequence[ScoredCell]) -> dict[str, list[str]]:
    """The best local window and ratio of the reference, and which are as good, by `model, benchmark, budget`."""
    found = {}
    for title, panel in panels(cells):
        if len(mine := _with_ratio(panel)) > 1:
            names = [f"(window {cell.config.window}, ratio {cell.config.ratio:g})" for cell in mine]
            found[title] = [best_sentence(method_table(mine).assign(label=names), f"settings of {REFERENCE}")]
    return found


def setting_table(cells: Sequence[ScoredCell]) -> pd.DataFrame:
    """Summary rows of the reference's cells that have a ratio: what its local window and ratio do."""
    names = ["model", "benchmark", "budget_tokens", "window", "ratio", "kv_tokens_peak"]
    columns = [*names, "pass_at_1", "pass_at_1_lo", "pass_at_1_hi"]
    return pd.DataFrame([cell.row for cell in _with_ratio(cells)], columns=columns)


def _with_ratio(cells: Sequence[ScoredCell]) -> list[ScoredCell]:
    return [cell for cell in cells if cell.config.label == REFERENCE and cell.config.ratio is not None]
