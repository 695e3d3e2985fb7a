"""Fidelity of the cells of a profile: the same configurations, teacher-forced over the full cache's own replies."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from ..benchmarks.table import load_problems
from ..engine.requests import OK
from ..errors import KvreproError
from ..files import write_atomic
from ..methods.table import method_class
from ..models.table import model_entry
from ..runs.config import CellConfig
from ..scores.statistics import bootstrap_interval

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("kl", "agrees", "answer_kl", "answer_log_likelihood")


def full_cell(config: CellConfig) -> CellConfig:
    """The full-cache cell whose replies a compressed cell is compared along."""
    nothing = ("budget", "window", "ratio", "evict_every", "protocol", "options", *config.asset_folders())
    return replace(config, method="full", n_samples=1, **dict.fromkeys(nothing))


def known_traces(config: CellConfig, model, tokenizer) -> list:
    """Full-cache replies to the cell's problems that ended by themselves, one per problem.

    A model that does not think has no answer part either: its replies are followed as far as they go.

    Raises:
        KvreproError: no reply ended within the token limit.
    """
    from ..engine.generate import generate
    from .fidelity import KnownTrace

    problems = load_problems(config.benchmark, config.n_problems, config.prompt_style)
    entry = model_entry(config.model)
    sampling = {name: getattr(config, name) for name in ("temperature", "top_p", "top_k", "sampling_order", "seed")}
    replies = generate(
        model, tokenizer, [p.question for p in problems], "full", max_new_tokens=config.max_new_tokens,
        batch_rows=config.batch_rows, think_end=entry.think_end, think_start=entry.think_start,
        open_thought=entry.open_thought, **sampling,
    )  # fmt: skip
    thinks = entry.think_end is not None
    traces = [
        KnownTrace(
            p.problem_id, 0, tuple(r.request.prompt_ids), tuple(r.token_ids), r.n_thinking_tokens if thinks else None
        )
        for p, r in zip(problems, replies, strict=True)
        if not thinks or (r.status == OK and r.n_answer_tokens)
    ]  # fmt: skip
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
    import pandas as pd

    compressed = [c for c in cells if c.method != "full"]
    if not compressed:
        raise KvreproError("no compressed cell was given; the full cache differs from itself nowhere")
    folder.mkdir(parents=True, exist_ok=True)
    missing = [c for c in compressed if not _file(folder, c).is_file()]
    with tqdm(total=len(missing), desc="fidelity", file=sys.stderr) as bar:
        for full in dict.fromkeys(json.dumps(full_cell(c).resolved()) for c in missing):
            shared = [c for c in missing if json.dumps(full_cell(c).resolved()) == full]
            for cell, frame in _measured(shared):
                write_atomic(_file(folder, cell), frame.to_csv(index=False))
                bar.update()
    return pd.concat([_read(folder, c) for c in compressed], ignore_index=True)


def _measured(cells: list[CellConfig]):
    """Cells that share a model and traces, one after the other."""
    from ..models.loading import load_model
    from ..runs.resolution import loaded_method
    from .fidelity import measure_fidelity, oracle_traces, reference_hidden, summarise_fidelity

    entry = model_entry(cells[0].model)
    model, tokenizer = load_model(entry)
    traces = known_traces(full_cell(cells[0]), model, tokenizer)
    reference = {trace.key: reference_hidden(model, trace) for trace in traces}
    oracles: dict[str, Any] = {}
    for cell in cells:
        given: dict[str, Any] = {}
        if "trace" in method_class(cell.method).needs:
            if cell.method not in oracles:
                block = (cell.options or {}).get("block", 16)
                oracles[cell.method] = oracle_traces(model, cell.method, traces, block)
            given["traces"] = oracles[cell.method]
        frame = measure_fidelity(
            model, traces, loaded_method(cell, model, tokenizer, **given), think=entry.tags(tokenizer),
            batch_rows=cell.batch_rows, seed=cell.seed, reference=reference,
        )  # fmt: skip
        yield cell, summarise_fidelity(frame)


def _file(folder: Path, cell: CellConfig) -> Path:
    return folder / f"{cell.cell_id.replace('/', '_')}.csv"


def _read(folder: Path, cell: CellConfig) -> pd.DataFrame:
    import pandas as pd

    identity = {
        "model": cell.model, "benchmark": cell.benchmark, "method": cell.method, "label": cell.label,
        "protocol": cell.protocol, "budget_tokens": cell.budget,
    }  # fmt: skip
    return pd.read_csv(_file(folder, cell)).assign(**identity)


def fidelity_table(frame: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """Mean over traces with a bootstrap interval, per model, benchmark, label and budget.

    Columns: those of the cell, `n_traces`, and `<measure>`, `<measure>_lo`, `<measure>_hi` for each measure. The
    interval is a percentile bootstrap over traces: KL is skewed and cannot be negative, so a t interval misleads.
    """
    import pandas as pd

    rows = []
    keys = ["model", "benchmark", "method", "label", "protocol", "budget_tokens"]
    for values, cell in frame.groupby(keys, sort=False, dropna=False):
        row = {**dict(zip(keys, values, strict=True)), "n_traces": len(cell)}
        for measure in MEASURES:
            known = cell[measure].dropna().to_numpy(float)
            mean = known.mean() if len(known) else np.nan
            lo = hi = np.nan
            if len(known) > 1:
                found = bootstrap_interval(known, confidence)
                lo, hi = found.lo, found.hi
            row |= {measure: mean, f"{measure}_lo": lo, f"{measure}_hi": hi}
        rows.append(row)
    return pd.DataFrame(rows)
