"""The main table: methods side by side on the same problems and noise, with paired differences.

Source: the paper's method table (arXiv 2601.18383, table 1); differences and Holm correction are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ..errors import KvreproError
from ..methods.budgets import AS_PUBLISHED, FAIR
from ..runs.config import CellConfig
from ..runs.folder import MANIFEST, read_manifest
from ..runs.profiles import Profile
from ..runs.summary import problem_means, summary_row
from ..scores.sentences import SIGNIFICANCE
from ..scores.statistics import holm, interval, mean_over_sets, paired_comparison

FULL, REFERENCE = "full", "dynts"
_MEANINGS = {
    FAIR: "the budget is what remains after an eviction, question and window included, the same for every method",
    AS_PUBLISHED: "the budget means what each method's paper or code means, so rows may hold different numbers of "
    "slots: compare kv_tokens_peak",
    "none": "no finished cell has a budget",
}


@dataclass(frozen=True)
class ScoredCell:
    """A finished cell and its mean score per problem."""

    config: CellConfig
    row: dict
    by_problem: Mapping[str, float]


def scored_cells(profile: Profile) -> list[ScoredCell]:
    """The finished cells of a profile, in its order."""
    found = []
    for config, folder in zip(profile.cells, (f.path for f in profile.folders), strict=True):
        # the manifest comes last, whether a grid or a notebook ran the cell
        if (folder / MANIFEST).is_file():
            found.append(ScoredCell(config, summary_row(config, read_manifest(folder)), problem_means(folder)))
    return found


def run_missing_cells(profile: Profile) -> None:
    """Run every cell that is not done, here and one after the other: for small profiles in a notebook."""
    from ..runs.runner import run_cell

    for config, folder in zip(profile.cells, profile.folders, strict=True):
        run_cell(config, folder.path)


def first_of_each_label(cells: Sequence[ScoredCell]) -> list[ScoredCell]:
    """Of cells that share model, benchmark, label and budget, and differ in sizes that a label does not name, one."""
    keys = {(c.config.model, c.config.benchmark, c.config.label, c.config.budget): c for c in reversed(cells)}
    return [cell for cell in cells if cell in keys.values()]


def explain_protocol(frame: pd.DataFrame) -> str:
    """One sentence on what the budget of these rows means.

    Raises:
        KvreproError: rows of both protocols, whose budgets mean different things.
    """
    protocols = sorted(frame[frame.method != FULL].protocol.dropna().unique()) or ["none"]
    if len(protocols) > 1:
        raise KvreproError(
            f"the table mixes the protocols {' and '.join(protocols)}, in which a budget means different things: "
            "select rows of one protocol, or name one in the profile's defaults"
        )
    return f"protocol {protocols[0]}: {_MEANINGS[protocols[0]]}"


def _checked_rows(cells: list[ScoredCell]) -> pd.DataFrame:
    """The cells' summary rows, of one protocol."""
    if not cells:
        raise KvreproError("no finished cell to compare: run the profile first")
    frame = pd.DataFrame([cell.row for cell in cells])
    explain_protocol(frame)
    return frame


def method_table(cells: list[ScoredCell], reference: str = REFERENCE) -> pd.DataFrame:
    """One row per model, benchmark, label and budget, with its paired differences.

    Columns: those of the summary; where those rows exist, `minus_full` and `minus_<reference>` with `_lo`, `_hi`
    (points, 95 % t interval over problems) and `_p` (Holm-adjusted within model, benchmark and comparison);
    `is_best` (highest Pass@1 among the compressed) and `is_as_good` (not significantly below it).

    Raises:
        KvreproError: no finished cell, or cells of both protocols.
    """
    frame = _checked_rows(cells)
    parts = []
    for _, group in frame.groupby(["model", "benchmark"], sort=False):
        mine = {i: cells[i] for i in group.index}
        part = group.copy()
        for name in (FULL, reference):
            base = [cell for cell in mine.values() if cell.config.label == name]
            if base:
                part = part.join(_differences(mine, base[0], f"minus_{name}"))
        parts.append(_mark_best(part, mine))
    return pd.concat(parts, ignore_index=True)


def _differences(cells: Mapping[int, ScoredCell], base: ScoredCell, name: str) -> pd.DataFrame:
    """Paired differences of all cells to one, in points."""
    others = {i: cell for i, cell in cells.items() if cell is not base}
    found = {i: paired_comparison(cell.by_problem, base.by_problem) for i, cell in others.items()}
    adjusted = holm({i: c.p_value for i, c in found.items()}) if found else {}
    rows = {i: (100 * c.difference, 100 * c.lo, 100 * c.hi, adjusted[i]) for i, c in found.items()}
    columns = [name, f"{name}_lo", f"{name}_hi", f"{name}_p"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def _mark_best(part: pd.DataFrame, cells: Mapping[int, ScoredCell]) -> pd.DataFrame:
    """`is_best` and `is_as_good` among the compressed rows."""
    compressed = part[part.method != FULL]
    part = part.assign(is_best=False, is_as_good=False)
    if compressed.empty:
        return part
    best = compressed.pass_at_1.idxmax()
    worse = _differences({i: cells[i] for i in compressed.index}, cells[best], "minus_best")
    part.loc[best, ["is_best", "is_as_good"]] = True
    as_good = worse.index[(worse.minus_best_p >= SIGNIFICANCE) | (worse.minus_best >= 0)]
    part.loc[as_good, "is_as_good"] = True
    return part


def average_table(cells: list[ScoredCell]) -> pd.DataFrame:
    """Mean over all model and benchmark pairs that every label has, with an interval that keeps shared problems.

    Columns: label, method, pass_at_1, pass_at_1_lo, pass_at_1_hi (percent), mean_slots (mean of the most slots that a
    row of each pair held), n_sets. Labels that lack a pair are left out: a mean over other sets would not compare.

    Raises:
        KvreproError: no finished cell, or cells of both protocols.
    """
    _checked_rows(cells)
    pairs = {(c.config.model, c.config.benchmark) for c in cells}
    rows = []
    for label in dict.fromkeys(c.config.label for c in cells):
        mine = {(c.config.model, c.config.benchmark): c for c in cells if c.config.label == label}
        if set(mine) != pairs:
            continue
        sets = {" ".join(pair): cell.by_problem for pair, cell in mine.items()}
        # the two models answer the same problems, so a drawn problem is drawn for both
        same = {(name, p): f"{name.split(' ')[1]}/{p}" for name, scores in sets.items() for p in scores}
        score = mean_over_sets(sets, same) if len(sets) > 1 else interval(list(next(iter(sets.values())).values()))
        if score.lo == score.hi:
            # all replies alike: resampling says nothing, the exact bound for so many distinct problems does
            score = interval([score.estimate] * score.n_problems)
        method = next(iter(mine.values())).config.method
        slots = sum(cell.row["kv_tokens_peak"] for cell in mine.values()) / len(mine)
        rows.append((label, method, 100 * score.estimate, 100 * score.lo, 100 * score.hi, slots, len(sets)))
    names = ["label", "method", "pass_at_1", "pass_at_1_lo", "pass_at_1_hi", "mean_slots", "n_sets"]
    return pd.DataFrame(rows, columns=names)


def pinning_table(table: pd.DataFrame) -> pd.DataFrame:
    """Each score alone and with the question pinned, one row per model, benchmark, method and budget.

    A pair is two rows whose labels differ by `question` alone. Columns: `alone`, `question` (percent) and `gain`.
    """
    switches = table.label.str.split(" + ", regex=False)
    score = switches.map(lambda parts: " + ".join(part for part in parts if part != "question"))
    is_pinned, keys = table.label != score, ["model", "benchmark", "score", "budget_tokens"]
    table = table.assign(score=score)[[*keys, "pass_at_1"]]
    # labels do not name every size: of rows that are alike in the keys the last one counts
    alone, pinned = (table[rows].drop_duplicates(keys, keep="last") for rows in (~is_pinned, is_pinned))
    alone = alone.rename(columns={"pass_at_1": "alone"})
    pairs = pinned.merge(alone, on=keys).rename(columns={"pass_at_1": "question"})
    return pairs.assign(gain=pairs.question - pairs.alone)[[*keys, "alone", "question", "gain"]]
