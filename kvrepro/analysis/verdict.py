"""What a run of a profile came to: how it compares with the committed numbers, throughput, where and when it ran."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ..paths import committed_summary
from ..runs.folder import read_manifest
from ..runs.profiles import COMPARISON, Profile
from ..runs.summary import summarise_profile
from .budget_findings import drawn_throughput, throughput_verdict
from .comparison import Comparison

# what no machine changes, read from left to right as the table is, so it is not stretched over a page
SAME_EVERYWHERE = (
    "pass_at_1", "pass_at_1_lo", "pass_at_1_hi", "truncated_share", "mean_new_tokens", "evictions", "kv_tokens_peak",
    "kv_bytes_peak", "n_problems", "n_samples", "slack_tokens", "batch_rows", "capacity_tokens", "bytes_per_slot",
)  # fmt: skip
ROUNDED = 1e-4  # the committed table has four digits
N_NAMED = 3  # cells that a verdict names, the rest is counted


def verdict(profile: Profile, frame: pd.DataFrame | None = None) -> list[str]:
    """What a run came to, a line each: against the committed numbers, throughput and load, where and when.

    Args:
        frame: of `summarise_profile`, which is called without it.
    """
    frame = summarise_profile(profile) if frame is None else frame
    table = committed_summary(profile.name)
    if profile.name.startswith(COMPARISON):
        lines = _compared(profile)
    elif table is None:
        lines = [f"{len(frame)} of {len(profile.cells)} cells are finished; no numbers are committed to compare with."]
    else:
        lines = [compare(frame, pd.read_csv(table), len(profile.cells))]
    measured = drawn_throughput(profile)
    if measured:
        lines.append(throughput_verdict(list(measured.values())))
    if done := [read_manifest(folder.path) for folder in profile.folders if folder.is_complete]:
        lines.append(where_and_when(done))
        if not measured:
            lines[-1] += " What else ran on the machine was not measured, so times may not compare."
    return lines


def _compared(profile: Profile) -> list[str]:
    """How the method that a comparison asks about stands beside each other one, and how much of it is finished."""
    done = sum(folder.is_complete for folder in profile.folders)
    told = [d.sentence for found in Comparison.of(profile) for d in found.to_others] if done else []
    finished = f"{done} of {len(profile.cells)} cells are finished."
    return told if told and done == len(profile.cells) else [*told, finished]


def compare(found: pd.DataFrame, committed: pd.DataFrame, n_cells: int) -> str:
    """How many cells equal the committed numbers, and which do not and how, in a sentence or two.

    Cells are the same where their ids are. The id ends in a hash of parameters, weights and rows, so a cell that has
    only the rest of it is another cell, and its numbers are not compared. Times are not compared either.

    Args:
        found: of `summarise_profile`.
        committed: a `summary.csv`.
        n_cells: cells of the profile.
    """
    then = committed.set_index("cell_id")
    names = [name for name in SAME_EVERYWHERE if name in then and name in found]
    shared = found[found.cell_id.isin(then.index)]
    different = {row["cell_id"]: change for row in shared.to_dict("records") if (change := _change(row, then, names))}
    places = {_place(cell_id) for cell_id in then.index}
    others = [cell_id for cell_id in found.cell_id if cell_id not in then.index]
    changed = sum(_place(cell_id) in places for cell_id in others)
    parts = [f"{len(shared) - len(different)} of {n_cells} cells equal the committed numbers"]
    for count, words in (
        (len(different), "different"),
        (changed, "of other parameters, weights or problems than committed"),
        (len(others) - changed, "not in the committed table"),
        (n_cells - len(found), "not finished"),
    ):
        parts += [f"{count} {words}"] if count else []
    text = "; ".join(parts) + "."
    if different:
        named = [f"{_place(cell_id)}: {change}" for cell_id, change in list(different.items())[:N_NAMED]]
        rest = len(different) - len(named)
        text += f" {'; '.join(named)}{f'; and {rest} more' if rest else ''}."
    return text


def _place(cell_id: str) -> str:
    """`model/benchmark/method-budget`, the id without its hash."""
    return cell_id.rsplit("/", 1)[0]


def _change(row: dict[str, Any], then: pd.DataFrame, names: Sequence[str]) -> str:
    """Pass@1 then and now, else the first column that differs; nothing where none does."""
    old = then.loc[row["cell_id"]]
    # turned round, because no comparison of NaN holds
    changed = [n for n in names if not abs(old[n] - row[n]) <= ROUNDED]
    if not changed:
        return ""
    name = changed[0]
    shown = "Pass@1" if name == "pass_at_1" else name
    more = f" and {len(changed) - 1} more columns" if changed[1:] and name != "pass_at_1" else ""
    return f"{shown} {_number(old[name])} committed, {_number(row[name])} found{more}"


def _number(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def where_and_when(manifests: Sequence[dict[str, Any]]) -> str:
    """Days, machines and commits of finished cells."""
    days = sorted(manifest["ended"][:10] for manifest in manifests)
    # a cell may be made by several runs, on several machines
    runs = [run for manifest in manifests for run in manifest.get("runs") or [manifest]]
    machines = dict.fromkeys(_machine(run.get("hardware") or {}) for run in runs)
    commits = dict.fromkeys(_commit(run.get("git")) for run in runs)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    return f"Run {when} on {' and '.join(machines)}, {' and '.join(commits)}."


def _machine(hardware: dict[str, Any]) -> str:
    if gpu := hardware.get("gpu"):
        return gpu
    return f"{hardware['cpu']}, {hardware['cores']} cores" if hardware else "a machine that is not named"


def _commit(git: str | None) -> str:
    if git is None:
        return "outside a checkout"
    commit, changed, _ = git.partition("+")
    return f"commit {commit[:8]}{' with changes' if changed else ''}"
