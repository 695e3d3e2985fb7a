"""What the rows of `gpu-check` say, and what is aimed at; loads without torch. What has no row is None."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ...models.memory import step_bytes
from ...runs.machines import GPUS
from ..settings import DYNTS, PAPER_ROWS
from .sizes import FULL, SMALL

NAME_KEYS = ("part", "unit", "model", "stem", "kernel", "name", "product", "provider", "case")
# table of results that are right or wrong -> the parts that fill it
CHECKING = {"correct": ("correct", "decode"), "checks": ("kernel-checks",)}
# a driver counts a few per cent more or less memory than the data sheet
MEMORY_TOLERANCE = 0.1
# a baseline at other slots than a budget's by more than this share is none at equal slots
SLOT_TOLERANCE = 0.05


class Aim(NamedTuple):
    """At least `least`, less than `below`."""

    key: str
    text: str
    form: str
    least: float = 0.0
    below: float = float("inf")


# for the published shapes in bfloat16 with 20 rows at 2,500 and 5,000: aims, of which no GPU has been asked yet
AIMS = (
    Aim("fraction_of_bound", "at least 75 % of the read bound", ".1%", 0.75),
    Aim("over_eager", "at least 3 x the eager loop at equal slots", ".2f", 3.0),
    Aim("over_generate", "at least 2 x generate at equal slots", ".2f", 2.0),
    Aim("eviction_share", "evictions (scoring and compaction) under 1 % of the time", ".2%", below=0.01),
    Aim("largest_batch", "largest batch at 2,500 at least 4 x the full cache's", ".2f", 4.0),
    Aim("real_run", "real run within 5 % of what short stretches predict", ".3f", 0.95, 1.05),
)


def data_sheet(device: dict[str, Any]) -> float | None:
    """Bytes a second that the maker of a GPU promises; None where name and memory fit no row of the table."""
    # "RTX 4090" is one word there
    name = re.sub(r"rtx (?=\d)", "rtx", device["name"].lower())
    words = set(re.split(r"[^a-z0-9]+", name))
    for key, known in GPUS.items():
        is_same = abs(device.get("memory_bytes", 0) / known.memory_bytes - 1) < MEMORY_TOLERANCE
        if is_same and key.split("-")[0] in words and ("pcie" in words) == ("pcie" in key):
            return known.bandwidth
    return None


def with_bounds(row: dict[str, Any], read_bytes_per_s: float | None, sheet_bytes_per_s: float | None) -> dict[str, Any]:
    """Add the speed at which reading alone would limit this row, and the fractions of it and of the data sheet's.

    A row of a loop that is not known to read so much (it has no `weights_bytes`) stays as it is.
    """
    if "weights_bytes" not in row:
        return row
    read = step_bytes(row["weights_bytes"], row["bytes_per_slot"], row["rows"], row["mean_slots"])
    found = {"step_bytes": read}
    if read_bytes_per_s:
        found["bound_tps"] = row["rows"] * read_bytes_per_s / read
        found["fraction_of_bound"] = row["decode_tps"] / found["bound_tps"]
    if sheet_bytes_per_s:
        found["fraction_of_data_sheet"] = row["decode_tps"] * read / (row["rows"] * sheet_bytes_per_s)
    return row | found


def named(row: dict[str, Any]) -> str:
    """A row of any table, for people."""
    return " ".join(str(row[key]) for key in NAME_KEYS if row.get(key))


def uncaptured(data: dict[str, Any]) -> list[str]:
    """Rows whose step or product should have been a graph's replay and was not; on a CPU none is."""
    if not data["settings"]["device"].startswith("cuda"):
        return []
    tables = ("correct", "decode", "profile", "products")
    # a product that was not timed has nothing to be captured
    rows = [row for table in tables for row in data[table] if row.get("captured") is False and not row.get("error")]
    return [named(row) for row in rows]


def wrong(data: dict[str, Any]) -> list[str]:
    """Correctness rows and checks of kernels that failed."""
    found = [named(row) for table in CHECKING for row in data[table] if not row["ok"]]
    if data["settings"]["device"].startswith("cuda"):
        # one that gives wrong numbers, or that cannot run where it should
        found += [named(row) for row in data["products"] if row.get("error")]
    return found


def failed_parts(data: dict[str, Any]) -> list[str]:
    """Processes that were killed or ended with an error."""
    return [named(p) for p in data["parts"] if p["rc"] != 0 and not p.get("cut")]


def not_run(data: dict[str, Any], table: str) -> list[str]:
    """Rows, and processes that should fill the table, that were skipped or cut."""
    parts, done = CHECKING[table], {(row["model"], "decode") for row in data["correct"]}
    # a note without a table is of a process that never began
    rows = [row for row in data["skipped"] if (row["table"] == table if "table" in row else row["part"] in parts)]
    # what a process of `decode` does behind its first row belongs to another table
    cut = [p for p in data["parts"] if p.get("cut") and p["part"] in parts and (p["unit"], p["part"]) not in done]
    return [named(row) for row in rows + cut]


def conclusion(data: dict[str, Any]) -> str:
    """`RIGHT`, `WRONG` or `INCOMPLETE`, and why."""
    found = {
        "wrong": wrong(data),
        "broke": [named(row) for row in data["errors"]],
        "killed or failed": failed_parts(data),
        "not captured": uncaptured(data),
    }
    if any(found.values()):
        return "WRONG: " + "; ".join(f"{what}: {_some(names)}" for what, names in found.items() if names)
    if left := [name for table in CHECKING for name in not_run(data, table)]:
        return f"INCOMPLETE: not run or cut: {_some(left)}"
    n_rows, n_checks = len(data["correct"]), len(data["checks"])
    if not n_rows + n_checks:
        return "RIGHT: nothing broke, but no part that was asked for compares results"
    return f"RIGHT: all {n_rows} comparisons of logits and replies, all {n_checks} checks of kernels"


def _some(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def verdict(data: dict[str, Any]) -> dict[str, Any]:
    """What was found, and the aims.

    Returns:
        `correct` and `kernels` (rows that are `right`, `of` so many, what `broke` and what was `not_run`); `budgets`:
        per model and budget `decode_tps`, `fraction_of_bound` (of the read rate), `fraction_of_data_sheet`,
        `mean_slots`, `eviction_share`, and as ratios of tokens per second `over_eager` and `over_generate` (at equal
        slots and without evictions: what the loops themselves cost) and `over_full` (our full cache averaged over its
        lengths: what eviction gains over a long reply); per model `largest_batch` (`ratio` to the full cache's largest
        batch, `rows`, `full_rows`) and `real_run` (`steps`, `of_steps`, `ratio` of measured to predicted time);
        `full_tokens`: the full cache's longest; `aims`: per aim what was `found` and whether it is `met`, empty for
        other batches than the aims'.
    """
    settings = data["settings"]
    sizes = SMALL if settings["small"] else FULL
    bars, largest, real = {}, {}, {}
    for model in settings["models"]:
        of_model = [row for row in data["decode"] if row["model"] == model]
        plain = [row for row in of_model if "variant" not in row]
        for tokens in sizes.first:
            rows = [row for row in plain if row["method"] == DYNTS and row["budget_tokens"] == tokens]
            bars[f"{model} C={tokens}"] = _bars(rows[0] if rows else {}, plain)
        batches = {row["method"]: row for row in of_model if row.get("variant") == "largest batch"}
        if len(batches) == 2:
            ours, full = batches[DYNTS], batches["full"]
            ratio = ours["decode_tps"] / full["decode_tps"]
            largest[model] = dict(ratio=ratio, rows=ours["rows"], full_rows=full["rows"], tokens=sizes.first[0])
        for row in of_model:
            if row.get("variant") == "real run":
                real[model] = dict(ratio=row["measured_over_predicted"], steps=row["steps"], of_steps=row["of_steps"])
    found = {"budgets": bars, "largest_batch": largest, "real_run": real, "full_tokens": sizes.longest}
    has_aims = not settings["small"] and settings["rows"] == PAPER_ROWS
    return {
        "correct": _counts(data, "correct"),
        "kernels": _counts(data, "checks"),
        **found,
        "aims": list(_aims(found)) if has_aims else [],
    }


def _counts(data: dict[str, Any], table: str) -> dict[str, int]:
    rows, part = data[table], CHECKING[table][0]
    broke = sum(row.get("table") == table for row in data["errors"])
    broke += sum(p["part"] == part and p["rc"] != 0 and not p.get("cut") for p in data["parts"])
    right, left = sum(row["ok"] for row in rows), len(not_run(data, table))
    return {"right": right, "of": len(rows), "broke": broke, "not_run": left}


def _bars(row: dict[str, Any], plain: list[dict[str, Any]]) -> dict[str, float | None]:
    def over(method: str) -> float | None:
        others = [other for other in plain if row and other["method"] == method]
        if method != "full":
            # a baseline's speed falls with its length
            slots = row.get("mean_slots", 0)
            others = [o for o in others if abs(o["step_lengths"][0] - slots) <= SLOT_TOLERANCE * slots]
        return row["decode_tps"] / others[0]["decode_tps"] if others else None

    keys = ("decode_tps", "fraction_of_bound", "fraction_of_data_sheet", "mean_slots", "eviction_share")
    return {key: row.get(key) for key in keys} | {f"over_{m}": over(m) for m in ("eager", "generate", "full")}


def _aims(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for aim in AIMS:
        if aim.key in found:
            values = {model: one["ratio"] for model, one in found[aim.key].items()}
        else:
            values = {name: bars[aim.key] for name, bars in found["budgets"].items()}
        met = {name: aim.least <= value < aim.below for name, value in values.items() if value is not None}
        yield {"aim": aim.text, "form": aim.form, "found": values, "met": met}


def lines(found: dict[str, Any]) -> list[str]:
    """The verdict for people."""
    printed = []
    for title, n in (("logits and replies", found["correct"]), ("kernels", found["kernels"])):
        answer = "WRONG" if n["broke"] or n["right"] < n["of"] else "INCOMPLETE" if n["not_run"] else "right"
        counts = f"{n['right']} of {n['of']} right, {n['broke']} broke, {n['not_run']} not run"
        printed.append(f"{title}: {answer} ({counts})" if any(n.values()) else f"{title}: not asked for")
    printed += [f"{name}: {_budget_line(bars, found['full_tokens'])}" for name, bars in found["budgets"].items()]
    for model, one in found["largest_batch"].items():
        ours = f"C={one['tokens']} at {one['rows']} rows: {one['ratio']:.1f} x the tokens/s"
        printed.append(f"{model}, largest batches, {ours} of the full cache at {one['full_rows']} rows")
    for model, one in found["real_run"].items():
        steps = f"{one['steps']:,} of {one['of_steps']:,} steps"
        printed.append(f"{model}, real run: {steps}, took {one['ratio']:.3f} x the time that short stretches predict")
    if found["aims"]:
        printed.append(f"aims, for the published shapes in bfloat16 with {PAPER_ROWS} rows:")
    for aim in found["aims"]:
        ends = {name: " met" if met else " MISSED" for name, met in aim["met"].items()}
        values = [f"{name} {_said(value, aim['form'])}{ends.get(name, '')}" for name, value in aim["found"].items()]
        printed.append(f"  {aim['aim']}: {', '.join(values) or 'n/a'}")
    return printed


def _budget_line(bars: dict[str, float | None], full_tokens: int) -> str:
    sheet = bars["fraction_of_data_sheet"]
    of_sheet = "" if sheet is None else f" ({sheet:.0%} of the data sheet's)"
    equal = f"{_said(bars['over_eager'], '.1f')} x eager loop, {_said(bars['over_generate'], '.1f')} x generate"
    full = f"{_said(bars['over_full'], '.1f')} x our full cache averaged over a reply of {full_tokens:,} tokens"
    return (
        f"{_said(bars['decode_tps'], ',.0f')} tokens/s, {_said(bars['fraction_of_bound'], '.0%')} of the read bound"
        f"{of_sheet}; at equal slots ({_said(bars['mean_slots'], ',.0f')}): {equal}; {full}; "
        f"evictions {_said(bars['eviction_share'], '.1%')} of the time"
    )


def _said(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)
