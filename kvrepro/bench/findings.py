"""What measurements and bounds come to, in sentences: who is faster, how near the roof, which bars were missed."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from .measurements import Measurement, roofline
from .settings import DYNTS, GENERATE, KVPRESS, PAPER_ROWS, REFERENCE, TITLES

_OTHERS = (GENERATE, REFERENCE, KVPRESS)


def cpu_sentences(measured: Measurement | None, batch: int, budget: int, tokens: int, weights: int) -> list[str]:
    """Throughput of `dynts` beside the baselines, its share of the machine's roof, and the bars.

    Args:
        batch, budget, tokens: the setting that is told, where it was measured.
        weights: as of `roofline`.
    """
    if measured is None:
        return ["No CPU has been measured."]
    wanted = {"rows": batch, "budget": budget, "new_tokens": tokens, "variant": DYNTS}
    rows = [row for row in measured.data["settings"] if wanted.items() <= row.items()]
    found = [_speed(row, measured) for row in rows]
    roof = roofline(measured, weights)
    found += [
        f"At batch {row.rows} that step does {row.flops / 1e9:.0f} Gflop/s, {100 * row.share:.0f} % of what this "
        "machine's memory and products allow at its operations per byte."
        for row in roof[(roof.variant == DYNTS) & (roof["rows"] == batch)].itertuples()
    ]
    return found + ([_bars(measured)] if measured.data["bars"] else [])


def _speed(row: dict, measured: Measurement) -> str:
    ratios = [(TITLES[name], row.get(f"ratio_to_{name}")) for name in _OTHERS]
    times = ", ".join(f"{ratio:.1f} times {title}" for title, ratio in ratios if ratio is not None)
    return (
        f"{TITLES[DYNTS]} decodes {row['tps']:,.0f} tokens/s [{row['tps_lo']:,.0f}, {row['tps_hi']:,.0f}] at batch "
        f"{row['rows']}, budget {row['budget']:,} and replies of {row['new_tokens']:,} tokens"
        f"{': ' + times if times else ''} ({measured.label})."
    )


def _bars(measured: Measurement) -> str:
    bars = measured.data["bars"]
    missed = [f"{bar['bar']} (found {bar['found']:.2f}, wanted {bar['wanted']})" for bar in bars if not bar["held"]]
    text = f"{len(bars) - len(missed)} of {len(bars)} bars were held"
    return f"{text}; missed: {'; '.join(missed)}." if missed else f"{text}."


def gpu_sentences(bound: pd.DataFrame, paper: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    """Per model the bound of memory, what the paper's figures show of it, and what was measured of it.

    Args:
        bound, paper, measured: as of `figures.efficiency.speed_by_budget`.
    """
    return [_of_bound(model, limit, paper, measured) for model, limit in bound.groupby("model", sort=False)]


def _of_bound(model: str, limit: pd.DataFrame, paper: pd.DataFrame, measured: pd.DataFrame) -> str:
    by_budget = limit.set_index("budget_tokens").bound_tps
    ours = measured[measured["rows"] == PAPER_ROWS]
    parts = [
        f"{who} {_percents(part.decode_tps / part.budget_tokens.map(by_budget))} of it"
        for who, frame in (("the paper's figures show", paper), ("measured is", ours))
        if len(
            part := frame[(frame.model == model) & frame.budget_tokens.isin(by_budget.index)].dropna(
                subset="decode_tps"
            )
        )
    ]
    if ours[ours.model == model].empty:
        parts.append("no GPU has been measured")
    first, last = by_budget.index.min(), by_budget.index.max()
    return (
        f"{model}: memory allows {by_budget[first]:,.0f} tokens/s at a budget of {first:,} and {by_budget[last]:,.0f} "
        f"at {last:,} ({PAPER_ROWS} rows, computed); {'; '.join(parts)}."
    )


def _percents(shares: Iterable[float]) -> str:
    lo, hi = f"{100 * min(shares):.0f}", f"{100 * max(shares):.0f}"
    return f"{lo} %" if lo == hi else f"{lo} to {hi} %"


def size_sentences(even: pd.DataFrame, batches: pd.DataFrame) -> list[str]:
    """Per model what the head costs in evicted slots at the paper's batch, and how many more rows a budget lets in.

    Args:
        even: of `bounds.head_break_even`. batches: of `bounds.largest_batch`.
    """
    found = []
    for model, rows in batches.groupby("model", sort=False):
        budgets, full = rows.dropna(subset="budget_tokens"), rows[rows.budget_tokens.isna()].iloc[0]
        smallest = budgets.loc[budgets.budget_tokens.idxmin()]
        head = even[(even.model == model) & (even["rows"] == PAPER_ROWS)]
        price = "".join(
            f" At {PAPER_ROWS} rows {row.by_bytes:,.0f} evicted slots per row pay for the head by bytes, "
            f"{row.by_operations:,.0f} by operations."
            for row in head.itertuples()
        )
        more = f"{smallest.rows / full.rows:.1f} times as many as the {full.rows:,.0f} with the full cache"
        found.append(
            f"{model}: {smallest.rows:,.0f} rows fit into 80 GB at a budget of {smallest.budget_tokens:,.0f}, {more} "
            f"at {full.slots:,.0f} slots.{price}"
        )
    return found
