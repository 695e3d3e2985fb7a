"""How many tokens a cell will write and how long it will take: from measured cells, else a bound that says so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, linear_regression, median
from typing import Any

from ..errors import KvreproError
from ..paths import project_root
from .config import CellConfig
from .folder import read_manifest
from .profiles import Profile

MEASURED, ELSEWHERE, GIVEN = "measured", "measured elsewhere", "measured (given table)"
LIMIT, BOUND, NOTHING = "limit", "bound", "unknown"


@dataclass(frozen=True)
class PastCell:
    """What one finished cell tells; `new_tokens` is the mean of a reply, `overhead_s` all time outside decoding.

    `overhead_s` is None where the cell's whole time is not known.
    """

    model: str
    benchmark: str
    method: str
    budget: int | None
    new_tokens: float
    tps: float
    overhead_s: float | None
    source: str

    @property
    def size_tokens(self) -> float:
        """What the cache's size follows: the budget, or for the full cache the reply's length."""
        return self.new_tokens if self.budget is None else self.budget

    @classmethod
    def of(cls, row: Mapping[str, Any], source: str) -> PastCell:
        """From a row of a summary table; its time is that of the cell's run, not of throughput measured apart."""
        import pandas as pd

        replies = row["n_problems"] * row["n_samples"]
        # tables from before throughput was measured apart hold the run's speed under the name of the other
        tps = row["decode_tps"] if pd.isna(row.get("run_tps")) else row["run_tps"]
        return cls(
            model=row["model"],
            benchmark=row["benchmark"],
            method=row["method"],
            budget=None if pd.isna(row["budget_tokens"]) else int(row["budget_tokens"]),
            new_tokens=row["mean_new_tokens"],
            tps=tps,
            overhead_s=_outside_decoding(row["wall_s"], row["mean_new_tokens"] * replies, tps),
            source=source,
        )

    @classmethod
    def of_manifest(cls, config: CellConfig, manifest: Mapping[str, Any]) -> PastCell | None:
        """From a finished cell; None where an older version's manifest lacks what is read here."""
        try:
            score, tps = manifest["score"], manifest["stats"]["decode_tps"]
            total = score["mean_new_tokens"] * score["n_problems"] * score["n_samples"]
            overhead = None if (whole := whole_s(manifest)) is None else _outside_decoding(whole, total, tps)
            cell = (config.model, config.benchmark, config.method_name, config.budget)
            return cls(*cell, score["mean_new_tokens"], tps, overhead, MEASURED)
        except KeyError:
            return None

    @property
    def cell(self) -> tuple[str, str, str, int | None]:
        """What it was measured on."""
        return self.model, self.benchmark, self.method, self.budget


def whole_s(manifest: Mapping[str, Any]) -> float | None:
    """Seconds of all runs that made a finished cell together.

    None where they are not known: older manifests of cells that were resumed hold the last run's time only.
    """
    if "runs" in manifest:
        is_whole = all(run.get("wall_s") is not None for run in manifest["runs"])
    else:
        is_whole = not manifest.get("resumed_records")
    return manifest.get("wall_s") if is_whole else None


def _outside_decoding(wall_s: float, tokens: float, tps: float) -> float:
    return max(0.0, wall_s - (tokens / tps if tps > 0 else 0.0))


def finished_cells(profile: Profile) -> list[PastCell]:
    """What the finished cells of the profile tell, of those whose manifests do."""
    pairs = zip(profile.cells, profile.folders, strict=True)
    found = (PastCell.of_manifest(cell, read_manifest(folder.path)) for cell, folder in pairs if folder.is_complete)
    return [cell for cell in found if cell is not None]


def past_cells(profile: Profile, files: Iterable[Path] = ()) -> list[PastCell]:
    """Finished cells of the profile, those of given tables, then those of the published one.

    The published table is `notebooks/images/<profile>-summary.csv`, where the profile has one.

    Raises:
        KvreproError: a given file that is no such table.
    """
    import pandas as pd

    found = finished_cells(profile)
    published = project_root() / "notebooks" / "images" / f"{profile.name}-summary.csv"
    tables = [(path, GIVEN) for path in files] + ([(published, ELSEWHERE)] if published.is_file() else [])
    for path, source in tables:
        known = {m.cell for m in found}
        try:
            rows = [PastCell.of(row, source) for row in pd.read_csv(path).to_dict("records")]
        except (KeyError, TypeError, ValueError) as error:
            raise KvreproError(f"{path} is no summary.csv of a profile ({error!r})") from error
        found += [m for m in rows if m.cell not in known]
    return found


def expected_tokens(config: CellConfig, known: list[PastCell]) -> tuple[float, str]:
    """Mean new tokens of a reply, and where the number comes from; without a measurement the limit of the cell."""
    # what no budget cuts short is most like the largest budgets
    size = float(config.budget or config.max_new_tokens)
    close = _ranked(config, [m for m in known if (m.model, m.benchmark) == (config.model, config.benchmark)], size)[:2]
    if not close:
        return float(config.max_new_tokens), LIMIT
    gaps = [abs(m.size_tokens - size) for m in close]
    # of two neighbours each counts as far as the other is away
    mean = fmean([m.new_tokens for m in close], gaps[::-1] if len(close) > 1 and any(gaps) else None)
    return min(float(config.max_new_tokens), mean), close[0].source


def expected_speed(config: CellConfig, known: list[PastCell]) -> tuple[float, float, str] | None:
    """Tokens a second and seconds outside decoding from measured cells of this model; None without any.

    A token takes some time and more for every slot that its step reads, so its time is read off a line over the budget,
    or for the full cache over the reply's length; cells of other benchmarks stand in where this one has none. Time
    outside decoding (loading, prefill, grading) is the median of the same table, because the first cells of a run find
    cold files.
    """
    # a cell whose replies are one token long decoded nothing and has no speed
    mine = [m for m in known if m.model == config.model and m.tps > 0]
    tokens, _ = expected_tokens(config, known)
    for fits in (
        lambda m: (m.benchmark, m.method) == (config.benchmark, config.method_name),
        lambda m: m.benchmark == config.benchmark and (m.budget is None) == (config.budget is None),
        lambda m: m.method == config.method_name,
        lambda m: (m.budget is None) == (config.budget is None),
    ):
        found = _ranked(config, [m for m in mine if fits(m)], config.budget or tokens)
        if found:
            alike = [m for m in mine if m.source == found[0].source]
            here = [m for m in alike if m.benchmark == config.benchmark] or alike
            return _speed_at(config.budget or tokens, found), _overhead_s(here), found[0].source
    return None


def expected_seconds(config: CellConfig, n_replies: int, known: list[PastCell]) -> float | None:
    """How long a cell with so many replies takes by itself, from measured cells of its model; None without any.

    Where `expected_speed` has nothing, the full cache stands in for compressed ones or these for it.
    """
    if (found := expected_speed(config, known)) is not None:
        tps, overhead, _ = found
    elif mine := [m for m in known if m.model == config.model and m.tps > 0]:
        tps, overhead = fmean(m.tps for m in mine), _overhead_s(mine)
    else:
        return None
    return n_replies * expected_tokens(config, known)[0] / tps + overhead


def _overhead_s(known: Iterable[PastCell]) -> float:
    """Seconds outside decoding, of the cells that tell."""
    return median([m.overhead_s for m in known if m.overhead_s is not None] or [0.0])


def _speed_at(size: float, known: list[PastCell]) -> float:
    """Tokens a second at a size of the cache; no less than half and no more than twice what was measured."""
    sizes, times = [m.size_tokens for m in known], [1 / m.tps for m in known]
    slope, at_none = linear_regression(sizes, times) if len(set(sizes)) > 1 else (0.0, 0.0)
    if slope <= 0:
        return 1 / fmean(times)
    return 1 / min(max(at_none + slope * size, min(times) / 2), 2 * max(times))


def _ranked(config: CellConfig, known: list[PastCell], size: float) -> list[PastCell]:
    """The same method before others, this machine before other tables, and of those the nearest sizes first."""
    order = (MEASURED, GIVEN, ELSEWHERE)

    def distance(m: PastCell) -> tuple[bool, int, float]:
        return m.method != config.method_name, order.index(m.source), abs(m.size_tokens - size)

    ranked = sorted(known, key=distance)
    return [m for m in ranked if (m.method, m.source) == (ranked[0].method, ranked[0].source)]
