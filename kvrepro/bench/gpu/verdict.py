"""What the rows of `gpu-check` say about its bars; loads without torch. What has no row is None."""

from __future__ import annotations

from typing import Any

from ...models.memory import step_bytes
from ..settings import DYNTS
from .sizes import FULL, SMALL


def with_bounds(row: dict[str, Any], read_bytes_per_s: float | None, copy_bytes_per_s: float | None) -> dict[str, Any]:
    """Add the speed at which reading alone would limit this row, and the fractions of it and of a copy's rate.

    A row of a loop that is not known to read so much (it has no `weights_bytes`) stays as it is.
    """
    if "weights_bytes" not in row:
        return row
    read = step_bytes(row["weights_bytes"], row["bytes_per_slot"], row["rows"], row["mean_slots"])
    found = {"step_bytes": read}
    if read_bytes_per_s:
        found["bound_tps"] = row["rows"] * read_bytes_per_s / read
        found["fraction_of_bound"] = row["decode_tps"] / found["bound_tps"]
    if copy_bytes_per_s:
        found["fraction_of_copy_bound"] = row["decode_tps"] * read / (row["rows"] * copy_bytes_per_s)
    return row | found


def uncaptured(data: dict[str, Any]) -> list[str]:
    """Rows whose step or product should have been a graph's replay and was not; on a CPU none is."""
    if not data["settings"]["device"].startswith("cuda"):
        return []
    tables = ("correct", "decode", "profile", "products")
    # a product that was not timed has nothing to be captured
    rows = [row for table in tables for row in data[table] if row.get("captured") is False and not row.get("error")]
    keys = ("model", "name", "product", "provider")
    return [" ".join(str(row[key]) for key in keys if row.get(key)) for row in rows]


def wrong(data: dict[str, Any]) -> list[str]:
    """Correctness rows and checks of kernels that failed."""
    rows = [(f"{row['model']} {row['name']}", row) for row in data["correct"]]
    rows += [(f"{row['stem']} {row['case']}", row) for row in data["checks"]]
    found = [name for name, row in rows if not row["ok"]]
    if data["settings"]["device"].startswith("cuda"):
        # one that gives wrong numbers, or that cannot run where it should
        found += [f"{row['model']} {row['product']} {row['provider']}" for row in data["products"] if row.get("error")]
    return found


def failed_parts(data: dict[str, Any]) -> list[str]:
    """Processes that were killed or ended with an error."""
    return [f"{p['part']} {p['unit']}".strip() for p in data["parts"] if p["rc"] != 0 and not p.get("cut")]


def verdict(data: dict[str, Any]) -> dict[str, Any]:
    """The bars.

    Returns:
        `correct` and `kernels` (rows that are `right`, `of` so many, what `broke` and what was `skipped`), per
        model and budget
        `fraction_of_bound` (of the read rate), `eviction_share`, `over_eager`, `over_generate` and `over_full` (ratios
        of tokens per second, baselines at the nearest length); per model `largest_batch` (ratio to the full cache) and
        `real_run` (measured over predicted time).
    """
    settings = data["settings"]
    budgets = (SMALL if settings["small"] else FULL).first
    rows = {}
    for model in settings["models"]:
        of_model = [row for row in data["decode"] if row["model"] == model]
        plain = [row for row in of_model if "variant" not in row]
        for budget in budgets:
            found = [row for row in plain if row["method"] == DYNTS and row["budget_tokens"] == budget]
            rows[f"{model} C={budget}"] = _bars(found[0] if found else {}, plain)
    return {
        "correct": _counts(data, "correct", "correct"),
        "kernels": _counts(data, "checks", "kernel-checks"),
        "budgets": rows,
        "largest_batch": {model: _largest(data, model) for model in settings["models"]},
        "real_run": {row["model"]: row["measured_over_predicted"] for row in data["decode"] if _is(row, "real run")},
    }


def _is(row: dict[str, Any], variant: str) -> bool:
    return row.get("variant") == variant


def _counts(data: dict[str, Any], table: str, part: str) -> dict[str, int]:
    rows, noted = data[table], {key: [row for row in data[key] if row["part"] == part] for key in ("errors", "skipped")}
    ended = [p for p in data["parts"] if p["part"] == part and p["rc"] != 0 and not p.get("cut")]
    broke = len(noted["errors"]) + len(ended)
    return {"right": sum(r["ok"] for r in rows), "of": len(rows), "broke": broke, "skipped": len(noted["skipped"])}


def _bars(row: dict[str, Any], plain: list[dict[str, Any]]) -> dict[str, float | None]:
    def over(method: str) -> float | None:
        others = [other for other in plain if other["method"] == method]
        if not row or not others:
            return None
        # a baseline's speed falls with its length: the one nearest to what this row holds on average
        nearest = min(others, key=lambda other: abs(other["step_lengths"][0] - row["mean_slots"]))
        return row["decode_tps"] / nearest["decode_tps"]

    found = {name: row.get(name) for name in ("fraction_of_bound", "eviction_share")}
    return found | {f"over_{method}": over(method) for method in ("eager", "generate", "full")}


def _largest(data: dict[str, Any], model: str) -> float | None:
    rows = [row for row in data["decode"] if row["model"] == model and _is(row, "largest batch")]
    speed = {row["method"]: row["decode_tps"] for row in rows}
    return speed[DYNTS] / speed["full"] if len(speed) == 2 else None


def lines(found: dict[str, Any]) -> list[str]:
    """The bars for people."""

    def said(value: float | None, form: str) -> str:
        return "n/a" if value is None else format(value, form)

    printed = []
    for title, n in (("correct end to end", found["correct"]), ("kernels correct", found["kernels"])):
        answer = "NO" if n["broke"] or n["right"] < n["of"] else "yes" if n["of"] else "n/a"
        printed.append(f"{title}: {answer} ({n['right']} of {n['of']}, {n['broke']} broke, {n['skipped']} not run)")
    for name, bars in found["budgets"].items():
        ratios = ", ".join(f"{said(bars[f'over_{m}'], '.2f')} x {m}" for m in ("eager", "generate", "full"))
        printed.append(
            f"{name}: {said(bars['fraction_of_bound'], '.1%')} of the read bound, {ratios}, "
            f"evictions {said(bars['eviction_share'], '.1%')} of the time"
        )
    for model, ratio in found["largest_batch"].items():
        printed.append(f"{model}, largest batch: {said(ratio, '.2f')} x that of the full cache")
    for model, ratio in found["real_run"].items() or [("real run", None)]:
        printed.append(f"{model}, real run: {said(ratio, '.3f')} of what short stretches predict")
    return printed
