"""What a panel came to, in a sentence: what its budgets cost in Pass@1, and what they gain in throughput."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..models.table import model_entry
from ..runs.profiles import Profile
from ..runs.throughput import BUSY, FALLS, LEVEL, RISES, Panel
from ..scores.statistics import PairedDifference, paired_comparison
from .method_table import FULL, REFERENCE, ScoredCell, scored_cells

NOT_MEASURED = "throughput not measured"
_WAYS = {FALLS: "falls", RISES: "does not fall but rises", LEVEL: "does not fall, it goes"}
_OTHER_WAYS = {RISES: "rises", LEVEL: "is level", BUSY: "not measured, machine busy,", None: "not measured"}


@dataclass(frozen=True)
class PanelFinding:
    """What came out of the cells of one model, benchmark and method, beside the full cache.

    Attributes:
        pass_at_1, throughput: half a sentence each.
        measured: the throughput as `runs.throughput.Panel.read` gives it; None where there is none.
    """

    model: str
    benchmark: str
    pass_at_1: str
    throughput: str
    measured: Mapping[str, Any] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether throughput was measured and orders nothing."""
        return self.measured is not None and self.measured["verdict"] == BUSY

    @property
    def sentence(self) -> str:
        """Both halves."""
        return f"{model_entry(self.model).title}, {self.benchmark}: {self.pass_at_1}; {self.throughput}."


def drawn_method(profile: Profile, model: str) -> str:
    """The method whose budgets the figure of a model shows: `dynts`, else the profile's first with a budget."""
    methods = [cell.method for cell in profile.cells if cell.model == model and cell.method != FULL]
    return REFERENCE if REFERENCE in methods else methods[0]


def measured_panels(profile: Profile) -> dict[str, Mapping[str, Any] | None]:
    """By panel, as `model/benchmark`, its throughput; None where it was not measured on the cells as they are."""
    return {panel.name: panel.read() if panel.is_measured else None for panel in Panel.all_of(profile)}


def budget_findings(profile: Profile) -> list[PanelFinding]:
    """A finding per panel of a profile that has budgets, in its order, from whatever is finished."""
    finished: dict[tuple[str, str], list[ScoredCell]] = {}
    for cell in scored_cells(profile):
        finished.setdefault((cell.config.model, cell.config.benchmark), []).append(cell)
    measured, found = measured_panels(profile), []
    for model, benchmark in dict.fromkeys((c.model, c.benchmark) for c in profile.cells if c.method != FULL):
        method = drawn_method(profile, model)
        planned = [c for c in profile.cells if (c.model, c.benchmark, c.method) == (model, benchmark, method)]
        if not planned:
            continue
        panel = finished.get((model, benchmark), [])
        full = next((c for c in panel if c.config.method == FULL), None)
        cells = sorted((c for c in panel if c.config.method == method), key=lambda c: c.config.budget)
        panel_measured = measured.get(planned[0].cell_id.rsplit("/", 2)[0])
        halves = pass_at_1_half(full, cells, len(planned)), throughput_half(panel_measured, method)
        found.append(PanelFinding(model, benchmark, *halves, panel_measured))
    return found


def pass_at_1_half(full: ScoredCell | None, cells: Sequence[ScoredCell], n_planned: int) -> str:
    """What the smallest budget costs against the full cache, in points, and from where on no loss is seen.

    Differences are paired by problem; a loss is seen where the 95 % interval of one leaves zero out.

    Args:
        cells: one per finished budget, smallest first.
        n_planned: budgets that the panel has.
    """
    if not cells:
        return f"none of {n_planned} budgets is finished"
    budgets = [cell.config.budget for cell in cells]
    some = "" if len(cells) == n_planned else f" ({len(cells)} of {n_planned} budgets finished)"
    if full is None:
        ends = cells[:: len(cells) - 1] if len(cells) > 1 else cells
        scores = " and ".join(f"{_score(cell)} at {cell.config.budget:,} tokens" for cell in ends)
        return f"Pass@1 is {scores}, the full cache is not finished{some}"
    reference = f"the full cache's {full.row['pass_at_1']:.1f}"
    if len(full.by_problem) < 2:
        points = full.row["pass_at_1"] - cells[0].row["pass_at_1"]
        return f"a budget of {budgets[0]:,} tokens costs {points:.1f} points of {reference} on a single problem{some}"
    losses = [paired_comparison(full.by_problem, cell.by_problem) for cell in cells]
    text = f"a budget of {budgets[0]:,} tokens {_loss(losses[0])} against {reference}"
    if losses[0].lo > 0 and len(cells) > 1:
        # from the largest down: where the first loss is seen
        seen = max(i for i, loss in enumerate(losses) if loss.lo > 0)
        is_last = seen == len(cells) - 1
        text += f", {budgets[-1]:,} still {_loss(losses[-1])}" if is_last else _from(budgets[seen + 1], budgets[-1])
    return text + some


def _from(first: int, largest: int) -> str:
    return f", at {first:,} no loss is seen" if first == largest else f", from {first:,} on no loss is seen"


def _loss(loss: PairedDifference) -> str:
    """A difference of the full cache to a budget, and whether its interval leaves zero out."""
    # the t interval knows no ends
    points, lo, hi = 100 * loss.difference, max(-100.0, 100 * loss.lo), min(100.0, 100 * loss.hi)
    if loss.hi < 0:
        return f"gains {-points:.1f} points of Pass@1 [{-hi:.1f}, {-lo:.1f}]"
    size = f"{points:.1f} points of Pass@1 [{lo:.1f}, {hi:.1f}]"
    return f"costs {size}" if loss.lo > 0 else f"costs nothing that is seen, {size},"


def _score(cell: ScoredCell) -> str:
    return "{pass_at_1:.1f} [{pass_at_1_lo:.1f}, {pass_at_1_hi:.1f}]".format_map(cell.row)


def throughput_half(measured: Mapping[str, Any] | None, method: str) -> str:
    """How throughput goes from the smallest to the largest budget, and what the smallest gains on the full cache.

    Args:
        measured: a panel as `measured_panels` has it; None where it was not measured.
    """
    if measured is None:
        return NOT_MEASURED
    if measured["verdict"] == BUSY:
        return f"{NOT_MEASURED}: machine busy ({_load([measured])})"
    cells = [c for c in measured["cells"].values() if c["method"] == method]
    if not cells:
        return f"{NOT_MEASURED} for {method}"
    first, last = (end(cells, key=lambda cell: cell["budget"]) for end in (min, max))
    gain = first["tps_vs_full"] and (
        f"{_ratio(*(first[f'tps_vs_full{end}'] for end in ('', '_lo', '_hi')))} times the full cache's"
    )
    if first is last:
        text = f"throughput is {first['decode_tps']:,.0f} tokens/s at {first['budget']:,}"
        return f"{text}, {gain}" if gain else text
    text = "throughput {} from {:,.0f} tokens/s at {:,} to {:,.0f} at {:,} (ratio {})".format(
        _WAYS[measured["verdict"]],
        first["decode_tps"],
        first["budget"],
        last["decode_tps"],
        last["budget"],
        _ratio(**measured["smallest_vs_largest"]),
    )
    return f"{text} and is {gain} at {first['budget']:,}" if gain else text


def throughput_verdict(panels: Sequence[Mapping[str, Any] | None]) -> str:
    """In how many panels throughput falls with the budget, by how much, and how busy the machine was.

    Args:
        panels: as `measured_panels` has them, None for each that was not measured.
    """
    ways = Counter(None if panel is None else panel["verdict"] for panel in panels)
    told = [panel for panel in panels if panel is not None and panel["verdict"] != BUSY]
    others = [f"{words} in {ways[way]}" for way, words in _OTHER_WAYS.items() if ways[way]]
    measured = [panel for panel in panels if panel is not None]
    load = f" {_load(measured).capitalize()}." if measured else ""
    if not told:
        return f"Throughput {', '.join(others)} of {len(panels)} panels.{load}"
    spans = []
    if ends := [p["smallest_vs_largest"]["median"] for p in told if len(_budgets(p)) > 1]:
        spans.append(f"{_span(ends)} times the largest")
    gains = [c["tps_vs_full"] for p in told for c in p["cells"].values() if c["budget"] == min(_budgets(p))]
    if gains := [gain for gain in gains if gain is not None]:
        spans.append(f"{_span(gains)} times the full cache")
    text = f"Throughput falls with the budget in {ways[FALLS]} of {len(panels)} panels"
    text += f" (the smallest {', '.join(spans)})" if spans else ""
    return "; ".join([text, *others]) + f".{load}"


def _budgets(measured: Mapping[str, Any]) -> set[int]:
    return {cell["budget"] for cell in measured["cells"].values() if cell["budget"] is not None}


def _ratio(median: float, lo: float, hi: float) -> str:
    return f"{median:.2f} [{lo:.2f}, {hi:.2f}]"


def _span(ratios: Sequence[float]) -> str:
    lo, hi = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return lo if lo == hi else f"{lo} to {hi}"


def _load(panels: Sequence[Mapping[str, Any]]) -> str:
    """What others did while these panels were measured."""
    mean, most = fmean(p["load"]["mean"] for p in panels), max(p["load"]["max"] for p in panels)
    return f"other processes kept {100 * mean:.0f} % of the cores busy, {100 * most:.0f} % at most"
