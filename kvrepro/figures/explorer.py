"""Two methods on one problem with equal noise: what can be chosen, both replies, what came out, where on the curve.

`explorer_controls` has the widgets. Everything here works without them, and what it draws needs no kernel to be read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from ..benchmarks.table import is_local, load_problems
from ..errors import KvreproError, check_known
from ..methods.table import FULL, METHODS, method_class
from ..models.loading import resolved_revision
from ..models.table import HUB_ID, model_entry
from ..paths import committed_summary
from ..runs.config import CellConfig
from ..runs.folder import CellFolder
from ..runs.identity import learned_source
from ..runs.profiles import Profile
from ..runs.resolution import resolve_cell
from ..runs.summary import summarise_profile
from .reply_pictures import PictureMaker, reply_texts
from .theme import FULL as FULL_COLOUR
from .theme import finish, spread
from .token_picture import TokenPicture, pictures_html

_COLOURS = ("#b35806", "#3f6db5")  # of the two methods
_SHOWN = 8  # tokens that are quoted before the first difference


@dataclass(frozen=True)
class Choice:
    """What is looked at: one problem under two methods; `budget` in tokens, `problem` is its id."""

    model: str
    benchmark: str
    left: str
    right: str
    budget: int
    problem: str


@dataclass(frozen=True)
class Side:
    """One method's reply: its cell, the picture, the record, and what its budget means, in a sentence."""

    config: CellConfig
    picture: TokenPicture
    record: dict[str, Any]
    budget_line: str

    @property
    def n_new(self) -> int:
        """Tokens of the reply."""
        return self.record["n_thinking_tokens"] + self.record["n_answer_tokens"]

    @property
    def outcome(self) -> str:
        """`answered 7, which is right`."""
        verdict = "right" if self.record["correct"] else "wrong"
        return f"answered {self.record['answer'] or 'nothing'}, which is {verdict}"


class Explorer:
    """Choices that can run on this machine with the settings of a profile, and what they come to.

    Raises:
        KvreproError: the profile has no budgets, or nothing of it can run here.
    """

    def __init__(self, profile: Profile):
        self.profile, self._maker = profile, PictureMaker()
        cells = [cell for cell in profile.cells if cell.budget is not None and is_local(cell.benchmark)]
        here = {model: _is_here(model) for model in dict.fromkeys(cell.model for cell in cells)}
        self._cells = [cell for cell in cells if here[cell.model]]
        if not self._cells:
            raise KvreproError(f"profile {profile.name} has no cell with a budget whose model and rows are here")
        # every choice is looked at again when one goes back to it
        self.sides = lru_cache(maxsize=32)(self._sides)

    @property
    def models(self) -> list[str]:
        """Models of the profile whose weights are on this machine."""
        return list(dict.fromkeys(cell.model for cell in self._cells))

    def benchmarks(self, model: str) -> list[str]:
        """Benchmarks that the profile asks this model, whose rows are on this machine."""
        return list(dict.fromkeys(cell.benchmark for cell in self._cells if cell.model == model))

    def budgets(self, model: str, benchmark: str) -> list[int]:
        """Budgets of the profile, tokens, smallest first."""
        return sorted({cell.budget for cell in self._panel(model, benchmark)})

    def problems(self, model: str, benchmark: str) -> list[str]:
        """Ids of the problems."""
        cell = self._panel(model, benchmark)[0]
        return [p.problem_id for p in load_problems(benchmark, cell.n_problems, cell.prompt_style)]

    def methods(self, model: str) -> list[str]:
        """Methods that can generate and lack nothing that they read beside the weights."""
        return [name for name in METHODS if all(_is_there(model, need) for need in method_class(name).needs)]

    def _panel(self, model: str, benchmark: str) -> list[CellConfig]:
        return [cell for cell in self._cells if (cell.model, cell.benchmark) == (model, benchmark)]

    def check(self, choice: Choice) -> None:
        """Raise `KvreproError` where something is chosen that is not offered; any budget may be asked for."""
        check_known("model here", self.models, choice.model)
        check_known(f"benchmark of {choice.model} here", self.benchmarks(choice.model), choice.benchmark)
        check_known(f"method that {choice.model} can run", self.methods(choice.model), choice.left, choice.right)
        check_known("problem", self.problems(choice.model, choice.benchmark), choice.problem)

    def config(self, choice: Choice, method: str) -> CellConfig:
        """The profile's cell where it has one, else one with the settings of its neighbours."""
        beside = self._panel(choice.model, choice.benchmark)
        budget = None if method == FULL else choice.budget
        key = (choice.model, choice.benchmark, method, budget)
        same = (c for c in self.profile.cells if (c.model, c.benchmark, c.method, c.budget) == key)
        values = {**beside[0].resolved(), "method": method, "budget": budget, "options": None}
        return next(same, None) or CellConfig.fitted(**values)[0]

    def _sides(self, choice: Choice) -> tuple[Side, Side]:
        """Both replies, generated now.

        Raises:
            KvreproError: a choice that is not offered or cannot run, such as a budget that the pinned tokens exceed.
        """
        self.check(choice)
        left, right = (self._side(self.config(choice, m), choice.problem) for m in (choice.left, choice.right))
        return left, right

    def _side(self, config: CellConfig, problem: str) -> Side:
        line, folder = resolve_cell(config).budget_line, CellFolder.of(self.profile.name, config)
        known = reply_texts(folder.path) if folder.is_complete else None
        [(picture, record)] = self._maker.pictures(config, [(problem, 0)], known)
        return Side(config, picture, record, line)

    def curve(self, choice: Choice) -> pd.DataFrame:
        """Pass@1 of the full cache and of both methods by budget, from the results here or else the committed table.

        Columns label, budget_tokens, pass_at_1, pass_at_1_lo, pass_at_1_hi, n_problems, n_samples; `attrs["source"]`
        says which table it is.
        """
        panel = [c for c in self.profile.cells if (c.model, c.benchmark) == (choice.model, choice.benchmark)]
        rows = summarise_profile(replace(self.profile, cells=tuple(panel)))
        source = "these results"
        if rows.empty and (path := committed_summary(self.profile.name)) is not None:
            rows, source = pd.read_csv(path), f"the committed {path.name}"
        labels = [self.config(choice, method).label for method in (choice.left, choice.right)]
        mine = (rows.model == choice.model) & (rows.benchmark == choice.benchmark) & rows.label.isin([FULL, *labels])
        names = ["label", "budget_tokens", "pass_at_1", "pass_at_1_lo", "pass_at_1_hi", "n_problems", "n_samples"]
        found = rows[mine][names].sort_values(["label", "budget_tokens"]).reset_index(drop=True)
        found.attrs["source"] = source
        return found


def _is_here(model: str) -> bool:
    """Whether the weights are on this machine; nothing is asked of a network."""
    entry = model_entry(model)
    return entry.is_folder or (HUB_ID.fullmatch(entry.source) is not None and resolved_revision(entry) is not None)


def _is_there(model: str, need: str) -> bool:
    if need == "separators":
        return True
    source = None if need == "trace" else learned_source(model_entry(model), need, None)
    # a head may lie on the Hub
    return source is not None and (Path(source).is_dir() or need == "predictor")


def parted_at(left: Side, right: Side) -> int | None:
    """Where the tokens of two replies first differ, in tokens of the sequence; None where they are equal."""
    one, other = left.picture.tokens, right.picture.tokens
    at = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return None if len(one) == len(other) == at else at


def comparison_table(left: Side, right: Side) -> pd.DataFrame:
    """What came out on either side, a row per method."""
    sides, rows = (left, right), []
    for side in sides:
        record = side.record
        rows.append(
            {
                "gold": record["gold"],
                "extracted": record["answer"] or "nothing",
                "verdict": "right" if record["correct"] else "wrong",
                "status": record["status"],
                "new tokens": side.n_new,
                "peak slots": record["peak_tokens"],
                "evictions": record["evictions"],
                "tokens lost": sum(number is not None for number in side.picture.lost_at),
            }
        )
    return pd.DataFrame(rows, index=[f"{side.config.label} {side.config.budget or ''}".strip() for side in sides])


def comparison_html(left: Side, right: Side) -> str:
    """The table and both pictures with one slider, as a block that loads nothing."""
    # the other way round it would not fit a phone
    table = comparison_table(left, right).T.to_html(border=0)
    return f"{table}{pictures_html([left.picture, right.picture])}"


def conclusion(choice: Choice, left: Side, right: Side, curve: pd.DataFrame) -> str:
    """What the two replies show, and how much that says."""
    names = [side.config.label for side in (left, right)]
    parted = parted_at(left, right)
    first = min((max(kept) + 1 for side in (left, right) for kept in side.picture.kept[:1]), default=None)
    if parted is None:
        course = "Question included, as the slider counts, all tokens of the two replies are equal"
    else:
        course = (
            f"Question included, as the slider counts, the first {parted} tokens are equal; after "
            f"{_text(left, max(0, parted - _SHOWN), parted)} {names[0]} {_goes_on(left, parted)} and {names[1]} "
            f"{_goes_on(right, parted)}"
        )
    course += ": nothing was evicted" if first is None else f"; the first eviction was at token {first}"
    lines = [
        f"{choice.problem} on {model_entry(choice.model).title}, gold {left.record['gold']}: "
        f"{names[0]} {left.outcome}, in {left.n_new} tokens and at most {left.record['peak_tokens']} slots; "
        f"{names[1]} {right.outcome}, in {right.n_new} tokens and at most {right.record['peak_tokens']} slots.",
        f"{course}.",
        *dict.fromkeys(
            f"{'' if name == FULL else f'{name}: '}{side.budget_line}."
            for name, side in zip(names, (left, right), strict=True)
        ),
    ]
    told = [text for name in dict.fromkeys(names) if (text := _score(name, choice, curve))]
    so = f"; over the benchmark, in {curve.attrs['source']}, {' and '.join(told)} at this budget" if told else ""
    lines.append(f"One reply says nothing about a method{so}.")
    return "\n".join(lines)


def _text(side: Side, start: int, end: int) -> str:
    """These tokens as a reader finds them in the picture."""
    return repr("".join(side.picture.tokens[start:end]))


def _goes_on(side: Side, at: int) -> str:
    return f"has {_text(side, at, at + 1)}" if at < len(side.picture.tokens) else "ends"


def _score(label: str, choice: Choice, curve: pd.DataFrame) -> str | None:
    rows = curve[(curve.label == label) & ((curve.budget_tokens == choice.budget) | (label == FULL))]
    if rows.empty:
        return None
    row = rows.iloc[0]
    return f"{label} scores {row.pass_at_1:.1f} % [{row.pass_at_1_lo:.1f}, {row.pass_at_1_hi:.1f}]"


def draw_curve(choice: Choice, curve: pd.DataFrame) -> Figure:
    """Pass@1 against the budget with 95 % intervals, the chosen budget marked, the full cache as a level."""
    figure, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
    full = curve[curve.label == FULL]
    methods = curve[curve.label != FULL]
    for colour, label in zip(_COLOURS, dict.fromkeys(methods.label), strict=False):
        rows = methods[methods.label == label]
        bars = spread(rows, "pass_at_1", "pass_at_1_lo", "pass_at_1_hi")
        ax.errorbar(
            rows.budget_tokens.astype(int), rows.pass_at_1, bars, marker="o", capsize=2, color=colour, label=label
        )
        chosen = rows[rows.budget_tokens == choice.budget]
        ax.plot(
            chosen.budget_tokens.astype(int), chosen.pass_at_1, "o", markersize=13, markerfacecolor="none", color=colour
        )
    for level in full.pass_at_1:
        ax.axhline(level, color=FULL_COLOUR, linestyle="--", linewidth=1.1, label="full cache")
    ax.axvline(choice.budget, color="0.35", linewidth=1, linestyle=":", label=f"chosen: {choice.budget}")
    title = f"{model_entry(choice.model).title} | {choice.benchmark}"
    labels = {"xlabel": "KV budget (tokens)", "ylabel": "Pass@1 (%)", "ylim": (-3, 105), "title": title}
    finish(ax, legend="beside", **labels)
    plt.close(figure)
    return figure
