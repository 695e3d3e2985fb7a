"""Cells to tell of: those of your own results, or where there are none those whose numbers the repository holds."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ..errors import KvreproError
from ..paths import committed_summary, results_root
from ..runs.profiles import Profile
from ..runs.summary import read_problem_means
from .method_table import ScoredCell, scored_cells


@dataclass(frozen=True)
class FoundCells:
    """Cells of a profile with their scores.

    Attributes:
        title: the profile's, with a note where the numbers are the committed ones.
        source: where the numbers come from, and how to get others; to be shown above them.
    """

    cells: list[ScoredCell]
    title: str
    source: str


def find_cells(profile: Profile) -> FoundCells:
    """The finished cells of a profile, or where none is done the committed ones; never some of both.

    Raises:
        KvreproError: neither is there.
    """
    folder, n_cells = results_root() / profile.name, len(profile.cells)
    if cells := scored_cells(profile):
        done = f"{profile.title}: {len(cells)} of {n_cells} cells are done, in {folder}."
        return FoundCells(cells, profile.title, done)
    own = f"no cell of {profile.name} is done in {folder}; `kvrepro grid {profile.name}` runs them"
    if not (cells := committed_cells(profile)):
        raise KvreproError(f"{own}, and there is no committed table of them")
    source = (
        f"{profile.title}: the committed numbers of {len(cells)} of {n_cells} cells "
        f"(notebooks/images/{profile.name}-summary.csv), for {own}, and this notebook reads them then."
    )
    return FoundCells(cells, f"{profile.title} (committed numbers)", source)


def committed_cells(profile: Profile) -> list[ScoredCell]:
    """The cells of a profile whose `summary.csv` and `problems.csv` rows are committed, in its order.

    They are found by their ids, so what was committed of other parameters, weights or problems is not there.
    """
    summary = committed_summary(profile.name)
    problems = summary and summary.with_name(f"{profile.name}-problems.csv")
    if problems is None or not problems.is_file():
        return []
    rows = {row["cell_id"]: row for row in pd.read_csv(summary).to_dict("records")}
    means = read_problem_means(problems)
    known = [(config, config.cell_id) for config in profile.cells]
    return [ScoredCell(config, rows[name], means[name]) for config, name in known if name in rows and name in means]
