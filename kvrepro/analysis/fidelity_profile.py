"""Fidelity of the cells of a profile: the same configurations, teacher-forced over the full cache's own replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..bars import progress_bar
from ..benchmarks.table import load_problems
from ..engine.generate import generate
from ..errors import KvreproError
from ..files import write_atomic
from ..methods.learned.folder import LEARNED
from ..methods.table import method_class
from ..models.loading import load_model
from ..models.table import model_entry
from ..paths import project_root
from ..runs.config import CellConfig
from ..runs.resolution import loaded_method
from ..scores.sentences import FEW_PROBLEMS
from ..training.importance.ranking import bootstrap
from .fidelity import MEASURES, KnownTrace, measure_fidelity, oracle_traces, reference_hidden, summarise_fidelity

REFERENCE, ORACLE = "dynts", "oracle"  # the method that is told of, and what oracles are called first
N_NAMED = 4


def full_cell(config: CellConfig) -> CellConfig:
    """The full-cache cell whose replies a compressed cell is compared along."""
    unset = ("budget", "window", "ratio", "evict_every", "protocol", "options", *LEARNED)
    return replace(config, method="full", n_samples=1, **dict.fromkeys(unset))


def full_cache_traces(config: CellConfig, model, tokenizer) -> list[KnownTrace]:
    """Full-cache replies to the cell's problems that ended by themselves, one per problem.

    A model that does not think has no answer part either: its replies are followed as far as they go.

    Raises:
        KvreproError: no reply ended within the token limit.
    """
    problems = load_problems(config.benchmark, config.n_problems, config.prompt_style)
    entry = model_entry(config.model)
    names = ("temperature", "top_p", "top_k", "sampling_order", "seed", "max_new_tokens", "batch_rows")
    settings = {name: getattr(config, name) for name in names}
    settings |= {name: getattr(entry, name) for name in ("think_end", "think_start", "open_thought")}
    replies = generate(model, tokenizer, [p.question for p in problems], "full", **settings)
    thinks = entry.think_end is not None
    found = [KnownTrace.of(r, p.problem_id, thinks=thinks) for p, r in zip(problems, replies, strict=True)]
    traces = [trace for trace in found if trace is not None]
    if not traces:
        raise KvreproError(
            f"none of the {len(problems)} full-cache replies to {config.benchmark} ended with an answer within "
            f"max_new_tokens={config.max_new_tokens}; raise it"
        )
    return traces


def measure_cells(cells: Sequence[CellConfig], folder: Path) -> pd.DataFrame:
    """Measure every compressed cell that is not measured yet; one CSV per cell in `folder`.

    Returns:
        One row per cell and trace: model, benchmark, method, label, protocol, budget_tokens and the columns of
        `fidelity.summarise_fidelity`.
    """
    compressed = [c for c in cells if c.method != "full"]
    if not compressed:
        raise KvreproError("no compressed cell was given; the full cache differs from itself nowhere")
    folder.mkdir(parents=True, exist_ok=True)
    files = {c.cell_id: folder / f"{c.cell_id.replace('/', '_')}.csv" for c in compressed}
    missing: dict[str, list[CellConfig]] = {}
    for cell in compressed:
        if not files[cell.cell_id].is_file():
            missing.setdefault(repr(full_cell(cell)), []).append(cell)
    with progress_bar(total=sum(map(len, missing.values())), desc="fidelity") as bar:
        for shared in missing.values():
            for cell, frame in _measured(shared):
                write_atomic(files[cell.cell_id], frame.to_csv(index=False))
                bar.update()
    frames = []
    for cell in compressed:
        identity = {name: getattr(cell, name) for name in ("model", "benchmark", "method", "label", "protocol")}
        frames.append(pd.read_csv(files[cell.cell_id]).assign(**identity, budget_tokens=cell.budget))
    return pd.concat(frames, ignore_index=True)


def _measured(cells: list[CellConfig]) -> Iterator[tuple[CellConfig, pd.DataFrame]]:
    """Cells that share a model and traces, one after the other."""
    entry = model_entry(cells[0].model)
    model, tokenizer = load_model(entry)
    traces = full_cache_traces(full_cell(cells[0]), model, tokenizer)
    reference = {trace.key: reference_hidden(model, trace) for trace in traces}
    oracles: dict[str, Any] = {}
    for cell in cells:
        given: dict[str, Any] = {}
        if "trace" in method_class(cell.method).needs:
            if cell.method not in oracles:
                block = (cell.options or {}).get("block", 16)
                oracles[cell.method] = oracle_traces(model, cell.method, traces, block)
            given["traces"] = oracles[cell.method]
        method = loaded_method(cell, model, tokenizer, **given)
        common = {"think": entry.tags(tokenizer), "batch_rows": cell.batch_rows, "seed": cell.seed}
        yield cell, summarise_fidelity(measure_fidelity(model, traces, method, reference=reference, **common))


def fidelity_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean over traces with a 95 % bootstrap interval, per model, benchmark, label and budget.

    Columns: those of the cell, `n_traces`, and `<measure>`, `<measure>_lo`, `<measure>_hi` for each measure. The
    interval is a percentile bootstrap over traces: KL is skewed and cannot be negative, so a t interval misleads.
    """
    rows = []
    keys = ["model", "benchmark", "method", "label", "protocol", "budget_tokens"]
    for values, cell in frame.groupby(keys, sort=False, dropna=False):
        row = {**dict(zip(keys, values, strict=True)), "n_traces": len(cell)}
        for measure in MEASURES:
            found = bootstrap(cell[measure].dropna())
            row |= {measure: found["mean"], f"{measure}_lo": found["lo"], f"{measure}_hi": found["hi"]}
        rows.append(row)
    return pd.DataFrame(rows)


def committed_fidelity(name: str) -> pd.DataFrame:
    """A table as of `fidelity_table` that the repository holds, `notebooks/images/<name>.csv`.

    Raises:
        KvreproError: there is none of this name; those that are there are listed.
    """
    folder = project_root() / "notebooks" / "images"
    known = sorted(path.stem for path in folder.glob("*-fidelity.csv"))
    if name not in known:
        raise KvreproError(f"{name!r} is no committed table of fidelity; expected {' or '.join(known)}, or none")
    return pd.read_csv(folder / f"{name}.csv")


def fidelity_findings(table: pd.DataFrame) -> dict[str, list[str]]:
    """Which method stays closest to the full cache, where dynts stands, and what an oracle would gain, in sentences.

    Means over the same replies are compared by their own intervals, which is stricter than a paired test.

    Args:
        table: of `fidelity_table`.

    Returns:
        By `model, benchmark, budget`.
    """
    found = {}
    for (model, benchmark, budget), rows in table.groupby(["model", "benchmark", "budget_tokens"], sort=False):
        is_oracle = rows.label.str.startswith(ORACLE)
        ranked = rows[~is_oracle].sort_values("kl", kind="stable", ignore_index=True)
        found[f"{model}, {benchmark}, {budget:,} slots"] = [
            *_closest(ranked),
            *_own_place(ranked),
            *_oracles(rows[is_oracle]),
        ]
    return found


def _closest(ranked: pd.DataFrame) -> list[str]:
    if len(ranked) < 2:
        return []
    first = ranked.iloc[0]
    if first.n_traces < FEW_PROBLEMS:
        return [f"{first.n_traces} replies say nothing about the order of {len(ranked)} methods."]
    text = f"Of {len(ranked)} methods {first.label} is closest to the full cache, KL {_nats(first)}"
    near = ranked.label[1:][ranked.kl_lo[1:] <= first.kl_hi].to_list()
    rest = f" and {len(near) - N_NAMED} more" if len(near) > N_NAMED else ""
    return [
        f"{text}; "
        + (f"intervals overlap with {', '.join(near[:N_NAMED])}{rest}." if near else "no interval overlaps.")
    ]


def _own_place(ranked: pd.DataFrame) -> list[str]:
    """Where the reference stands; the closest has been told of."""
    places = ranked.index[ranked.label == REFERENCE]
    if places.empty or (places[0] == 0 and len(ranked) > 1 and ranked.n_traces[0] >= FEW_PROBLEMS):
        return []
    own = ranked.loc[places[0]]
    place = (
        f"{REFERENCE} is number {places[0] + 1} of {len(ranked)}:" if own.n_traces >= FEW_PROBLEMS else f"{REFERENCE}:"
    )
    agrees = f"the same most likely token at {100 * own.agrees:.1f} % of the positions"
    return [f"{place} KL {_nats(own)}, {agrees}."]


def _oracles(rows: pd.DataFrame) -> list[str]:
    texts = [f"{row.label} {_nats(row)}" for row in rows.itertuples()]
    return [f"With what no method can know while it generates: {', '.join(texts)}."] if texts else []


def _nats(row) -> str:
    return f"{_number(row.kl)} nats [{_number(row.kl_lo)}, {_number(row.kl_hi)}]"


def _number(nats: float) -> str:
    return "<0.0001" if nats < 1e-4 else f"{nats:.2g}"
