"""What a panel came to, in a sentence: what its budgets cost in Pass@1, and what they gain in throughput."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ..models.table import model_entry
from ..runs.config import CellConfig
from ..runs.profiles import Profile
from ..runs.throughput import ALONE, BUSY, FALLS, LEVEL, RISES, Panel, method_finding, was_machine_busy
from ..scores.sentences import FEW_PROBLEMS
from ..scores.statistics import PairedDifference, paired_comparison
from .method_table import FULL, REFERENCE, ScoredCell, scored_cells

NOT_MEASURED = "throughput not measured"
_WAYS = {FALLS: "falls", RISES: "does not fall but rises", LEVEL: "does not fall, it goes"}
_OTHER_WAYS = {RISES: "rises", LEVEL: "is level", ALONE: "has nothing to be compared with"}
_MACHINE_BUSY, _NOISY = "machine busy", "too noisy to order its ends"


@dataclass(frozen=True)
class PanelFinding:
    """What came out of the cells of one model, benchmark and method, beside the full cache.

    Attributes:
        cells: those that are told of, one per budget, smallest first, finished or not.
        pass_at_1, throughput: half a sentence each.
    """

    model: str
    benchmark: str
    cells: tuple[CellConfig, ...]
    pass_at_1: str
    throughput: str

    @property
    def sentence(self) -> str:
        """Both halves."""
        return f"{model_entry(self.model).title}, {self.benchmark}: {self.pass_at_1}; {self.throughput}."


def drawn_method(profile: Profile, model: str) -> str:
    """The method whose budgets the figure of a model shows: `dynts`, else the profile's first with a budget."""
    methods = [cell.method_name for cell in profile.cells if cell.model == model and cell.method != FULL]
    return REFERENCE if REFERENCE in methods else methods[0]


def drawn_panels(profile: Profile) -> dict[tuple[str, str], tuple[CellConfig, ...]]:
    """By model and benchmark what a figure shows: of the drawn method's first variant the first cell of each budget.

    Smallest budget first. A panel without the method is left out.
    """
    cells = [cell for cell in profile.cells if cell.method != FULL]
    methods = {model: drawn_method(profile, model) for model in {cell.model for cell in cells}}
    panels: dict[tuple[str, str], list[CellConfig]] = {}
    for cell in cells:
        if cell.method_name == methods[cell.model]:
            panels.setdefault((cell.model, cell.benchmark), []).append(cell)
    return {key: _first_of_each_budget(found) for key, found in panels.items()}


def _first_of_each_budget(cells: Sequence[CellConfig]) -> tuple[CellConfig, ...]:
    by_budget = {cell.budget: cell for cell in reversed(cells) if cell.label == cells[0].label}
    return tuple(by_budget[budget] for budget in sorted(by_budget))


def drawn_throughput(profile: Profile) -> dict[tuple[str, str], Mapping[str, Any] | None]:
    """By model and benchmark the throughput of what is drawn; None where it was not measured on the cells as they are.

    `runs.throughput.method_finding` and the panel's `load`.
    """
    panels = {(panel.cells[0].model, panel.cells[0].benchmark): panel for panel in Panel.all_of(profile)}
    found = {}
    for key, cells in drawn_panels(profile).items():
        if key in panels:
            measured = panels[key].read() if panels[key].is_measured else None
            found[key] = measured and {**method_finding(measured, cells[0].method_name), "load": measured["load"]}
    return found


def budget_findings(profile: Profile) -> list[PanelFinding]:
    """A finding per panel of a profile that has budgets, in its order, from whatever is finished."""
    finished = {cell.config.cell_id: cell for cell in scored_cells(profile)}
    throughput, found = drawn_throughput(profile), []
    for key, planned in drawn_panels(profile).items():
        cells = [finished[cell.cell_id] for cell in planned if cell.cell_id in finished]
        full = [cell.cell_id for cell in profile.cells if (cell.model, cell.benchmark, cell.method) == (*key, FULL)]
        full_finished = next((finished[name] for name in full if name in finished), None)
        half = pass_at_1_half(full_finished, cells, len(planned), bool(full))
        found.append(PanelFinding(*key, planned, half, throughput_half(throughput.get(key))))
    return found


def pass_at_1_half(full: ScoredCell | None, cells: Sequence[ScoredCell], n_planned: int, has_full: bool = True) -> str:
    """What the smallest budget costs against the full cache, in points, and from where on no loss is seen.

    Differences are paired by problem; a loss is seen where the 95 % interval of one leaves zero out. Without the full
    cache, or where it has other problems, the scores stand alone.

    Args:
        full: None as long as it is not finished.
        cells: one per finished budget, smallest first.
        n_planned: budgets that the panel has.
        has_full: whether the panel has a full cache at all.
    """
    if not cells:
        return f"none of {n_planned} budgets is finished"
    budgets = [cell.config.budget for cell in cells]
    some = "" if len(cells) == n_planned else f" ({len(cells)} of {n_planned} budgets finished)"
    if full is None:
        return f"{_scores(cells)}, {'the full cache is not finished' if has_full else 'there is no full cache'}{some}"
    if any(cell.by_problem.keys() != full.by_problem.keys() for cell in cells):
        return f"{_scores(cells)}, not on the full cache's problems{some}"
    reference = f"the full cache's {full.row['pass_at_1']:.1f}"
    if len(full.by_problem) < 2:
        points = full.row["pass_at_1"] - cells[0].row["pass_at_1"]
        return f"a budget of {budgets[0]:,} tokens costs {points:.1f} points of {reference} on a single problem{some}"
    if (n := len(full.by_problem)) < FEW_PROBLEMS:
        loss = _loss(paired_comparison(full.by_problem, cells[0].by_problem))
        return f"{n} problems say nothing: on them a budget of {budgets[0]:,} tokens {loss} against {reference}{some}"
    losses = [paired_comparison(full.by_problem, cell.by_problem) for cell in cells]
    text = f"a budget of {budgets[0]:,} tokens {_loss(losses[0])} against {reference}"
    if len(cells) > 1 and any(loss.lo > 0 for loss in losses):
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


def _scores(cells: Sequence[ScoredCell]) -> str:
    """Those of the smallest and the largest budget."""
    ends = cells[:: len(cells) - 1] if len(cells) > 1 else cells
    return "Pass@1 is " + " and ".join(f"{_score(cell)} at {cell.config.budget:,} tokens" for cell in ends)


def _score(cell: ScoredCell) -> str:
    return "{pass_at_1:.1f} [{pass_at_1_lo:.1f}, {pass_at_1_hi:.1f}]".format_map(cell.row)


def throughput_half(found: Mapping[str, Any] | None) -> str:
    """How throughput goes from the smallest to the largest budget, and what the smallest gains on the full cache.

    Args:
        found: a panel as `drawn_throughput` has it; None where it was not measured.
    """
    if found is None:
        return NOT_MEASURED
    if found["verdict"] == BUSY:
        load = f" (load {100 * found['load']['mean']:.0f} %)" if was_machine_busy(found) else ""
        return f"{NOT_MEASURED}: {_noise(found)}{load}"
    first, last = found["cells"][0], found["cells"][-1]
    gain = first["tps_vs_full"] and (
        f"{_ratio(*(first[f'tps_vs_full{end}'] for end in ('', '_lo', '_hi')))} times the full cache's"
    )
    if first is last:
        text = f"throughput is {first['decode_tps']:,.0f} tokens/s at {first['budget']:,}"
        return f"{text}, {gain}" if gain else text
    text = "throughput {} from {:,.0f} tokens/s at {:,} to {:,.0f} at {:,} (ratio {})".format(
        _WAYS[found["verdict"]],
        first["decode_tps"],
        first["budget"],
        last["decode_tps"],
        last["budget"],
        _ratio(**found["smallest_vs_largest"]),
    )
    return f"{text} and is {gain} at {first['budget']:,}" if gain else text


def throughput_verdict(panels: Sequence[Mapping[str, Any] | None]) -> str:
    """In how many panels throughput falls with the budget, by how much, and how busy the machine was.

    Args:
        panels: as `drawn_throughput` has them, None for each that was not measured.
    """
    ways = Counter(map(_way, panels))
    falls = ways.pop(FALLS, 0)
    order = [*_OTHER_WAYS.values(), *(_without_number(why) for why in (_MACHINE_BUSY, _NOISY, None))]
    others = [f"{words} in {ways[words]}" for words in order if ways[words]]
    measured = [panel for panel in panels if panel is not None]
    load = f" {_load(measured)}." if measured else ""
    told = [panel for panel in measured if panel["verdict"] in _WAYS]
    if not told:
        return f"Throughput {', '.join(others)} of {len(panels)} panels.{load}"
    spans = []
    if ends := [p["smallest_vs_largest"]["median"] for p in told if p["largest"] is not None]:
        spans.append(f"{_span(ends)} times the largest")
    if gains := [gain for p in told if (gain := p["cells"][0]["tps_vs_full"]) is not None]:
        spans.append(f"{_span(gains)} times the full cache")
    whose = "in all that are ordered " if 0 < falls < len(told) else ""
    text = (
        f"Throughput falls with the budget in {falls} of {len(panels)} panels ({whose}the smallest {', '.join(spans)})"
    )
    return "; ".join([text, *others]) + f".{load}"


def _way(found: Mapping[str, Any] | None) -> str:
    """`FALLS`, or the words for anything else."""
    if found is None:
        return _without_number(None)
    if found["verdict"] == BUSY:
        return _without_number(_noise(found))
    return _OTHER_WAYS.get(found["verdict"], FALLS)


def _noise(found: Mapping[str, Any]) -> str:
    """Why a measurement orders nothing."""
    return _MACHINE_BUSY if was_machine_busy(found) else _NOISY


def _without_number(why: str | None) -> str:
    return f"not measured, {why}," if why else "not measured"


def _ratio(median: float, lo: float, hi: float) -> str:
    return f"{median:.2f} [{lo:.2f}, {hi:.2f}]"


def _span(ratios: Sequence[float]) -> str:
    lo, hi = f"{min(ratios):.2f}", f"{max(ratios):.2f}"
    return lo if lo == hi else f"{lo} to {hi}"


def _load(panels: Sequence[Mapping[str, Any]]) -> str:
    """What others did while these panels were measured."""
    mean, most = fmean(p["load"]["mean"] for p in panels), max(p["load"]["max"] for p in panels)
    return f"Other processes kept {100 * mean:.0f} % of the cores busy, {100 * most:.0f} % at most"
