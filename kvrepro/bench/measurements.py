"""Committed measurements as tidy frames: `kvrepro bench` of a CPU and `kvrepro gpu-check` of a GPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import KvreproError
from ..scores.known_scores import PAPER_BUDGET_CURVES
from .bounds import TITLES as MODEL_TITLES
from .reply_time import Reply, step_at
from .settings import DYNTS, GENERATE, TITLES, VARIANTS, BenchSettings
from .table import Points

CPU, GPU = "bench", "gpu-check"
SPLIT_PARTS = ("attention", "projections", "mlp", "head", "other", "score", "evict", "sample", "host")


@dataclass(frozen=True)
class Reading:
    """One measured file."""

    path: Path
    kind: str
    data: dict[str, Any]

    @property
    def device(self) -> str:
        """Its processor or GPU."""
        device = self.data["device"]
        return device["name"] if self.kind == GPU else device["cpu"]

    @property
    def label(self) -> str:
        """Device, threads, number format, clock and date, for captions."""
        if self.kind == GPU:
            return f"{self.device}, bfloat16, {self.data['time'][:10]}"
        clock = "processor time" if self.data["clock"] == "cpu" else "wall clock"
        threads = self.data["device"]["threads"]
        threads = "1 thread" if threads == 1 else f"{threads} threads"
        return f"{self.device}, {threads}, {self.data['dtype']}, {clock}, {self.data['time'][:10]}"


def find_readings(folder: Path) -> list[Reading]:
    """Every measurement in a folder, oldest first; other files are left alone."""
    found = []
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text())
        kind = CPU if data.get("kind") == CPU else GPU if {"decode", "checks", "device"} <= set(data) else None
        if kind is not None:
            found.append(Reading(path, kind, data))
    return sorted(found, key=lambda r: r.data["time"])


def latest(readings: list[Reading], kind: str) -> Reading | None:
    """The newest of a kind, or None."""
    return next((r for r in reversed(readings) if r.kind == kind), None)


def overview(readings: list[Reading]) -> pd.DataFrame:
    """Which files there are, and that there is no GPU's where there is none."""
    rows = [
        {
            "file": r.path.name,
            "kind": r.kind,
            "device": r.device,
            "time": r.data["time"],
            "revision": r.data["revision"],
        }
        for r in readings
    ]
    if latest(readings, CPU) is None:
        rows.append({"file": "none", "kind": CPU, "device": "no CPU measurement", "time": "", "revision": ""})
    if latest(readings, GPU) is None:
        rows.append(
            {"file": "none", "kind": GPU, "device": "no GPU measurement: bounds only", "time": "", "revision": ""}
        )
    return pd.DataFrame(rows)


def label(reading: Reading | None) -> str:
    """For captions, also of what has not been measured."""
    return "not measured" if reading is None else reading.label


def table_of(reading: Reading | None, name: str) -> pd.DataFrame:
    """One of a CPU measurement's tables: `settings`, `bars` or `confirmed`; a line that says so where it is empty."""
    rows = [] if reading is None else reading.data[name]
    return pd.DataFrame(rows or [{name: "not measured"}])


def _plan(reading: Reading) -> BenchSettings:
    given = reading.data["plan"]
    return BenchSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


def cost_by_step(reading: Reading | None, batch: int, budget: int, tokens: int, points: int = 400) -> pd.DataFrame:
    """Step time, tokens per second and K and V bytes against the decode step, per variant of a CPU measurement.

    Returns:
        Columns variant, title, step, step_ms, tps, kv_bytes; no variant that was not measured at this batch.

    Raises:
        KvreproError: the measurement has other batches or budgets; names them.
    """
    if reading is None:
        return pd.DataFrame(columns=["variant", "title", "step", "step_ms", "tps", "kv_bytes"])
    plan, data = _plan(reading), reading.data
    measured, frames = Points(data, plan, data["clock"]), []
    for variant in VARIANTS:
        reply = Reply(plan.prompt, tokens, None if variant == GENERATE else budget, plan.evict_every)
        curve = measured.curve(variant, batch, reply.budget)
        if not curve:
            continue
        steps = np.unique(np.linspace(0, tokens - 1, points).astype(int))
        lengths = reply.lengths()[steps]
        reach = curve[-1]["length"] + curve[-1]["warm_up"] + curve[-1]["steps"]
        if variant == GENERATE:
            # nothing is drawn beyond what was measured
            steps, lengths = steps[lengths <= reach], lengths[lengths <= reach]
        key = f"{data['clock']}_ms"
        ms = step_at(measured.middles(curve), [float(np.median(p[key])) for p in curve], lengths)
        frames.append(
            pd.DataFrame(
                {"variant": variant, "title": TITLES[variant], "step": steps + 1, "step_ms": ms,
                 "tps": 1e3 * batch / ms, "kv_bytes": data["bytes_per_slot"] * batch * (lengths + 1)}
            )
        )  # fmt: skip
    if not frames:
        raise KvreproError(
            f"{reading.path.name} holds nothing for batch={batch}, budget={budget}; it was measured with "
            f"batches {plan.batches} and budgets {plan.budgets}"
        )
    return pd.concat(frames, ignore_index=True)


def time_split(reading: Reading | None) -> pd.DataFrame:
    """Milliseconds of a step by part: columns rows (batch), part, ms, share."""
    rows = []
    for split in reading.data["split"] if reading is not None else ():
        total = sum(split["parts"].values())
        rows += [
            {"rows": split["rows"], "part": part, "ms": split["parts"][part], "share": split["parts"][part] / total}
            for part in SPLIT_PARTS if part in split["parts"]
        ]  # fmt: skip
    return pd.DataFrame(rows, columns=["rows", "part", "ms", "share"]).sort_values("rows", kind="stable")


def roofline(reading: Reading | None, weights: int) -> pd.DataFrame:
    """Every variant's step at its budget: operations per byte, operations a second, and the share of the roof.

    Args:
        weights: weights that a step multiplies with (all but the embedding table; tied, so the head's count).

    Returns:
        Columns variant, title, rows, slots, intensity (operations per byte), flops (per second), roof, share.
    """
    columns = ["variant", "title", "rows", "slots", "intensity", "flops", "roof", "share"]
    if reading is None or "machine" not in reading.data:
        return pd.DataFrame(columns=columns)
    plan, data = _plan(reading), reading.data
    clock, (memory_rate, product_rate) = data["clock"], roof_rates(reading)
    measured, found = Points(data, plan, clock), []
    width = 4 if data["dtype"] == "float32" else 2
    shape = {"layers": 30, "q_heads": 9, "head_dim": 64}
    for batch in plan.batches:
        for variant in VARIANTS:
            curve = measured.curve(variant, batch, plan.long_budget)
            # compressed loops at one length, near their budget; the full cache where it is longest
            wanted = plan.long_tokens if variant == GENERATE else plan.long_budget + plan.evict_every
            for point in sorted(curve, key=lambda p: abs(p["length"] - wanted))[:1]:
                slots = measured.middles([point])[0]
                attention = 4 * shape["layers"] * shape["q_heads"] * shape["head_dim"] * slots
                operations = batch * (2 * weights + attention)
                moved = weights * width + data["bytes_per_slot"] * batch * slots
                seconds = float(np.median(point[f"{clock}_ms"])) / 1e3
                intensity = operations / moved
                roof = min(product_rate, intensity * memory_rate)
                found.append(
                    {"variant": variant, "title": TITLES[variant], "rows": batch, "slots": slots,
                     "intensity": intensity, "flops": operations / seconds, "roof": roof,
                     "share": operations / seconds / roof}
                )  # fmt: skip
    return pd.DataFrame(found, columns=columns)


def roof_rates(reading: Reading | None) -> tuple[float, float]:
    """Bytes and operations a second that this machine reached, by the measurement's clock; NaN without one.

    Bytes are those of a copy or of a sum over numbers in memory, whichever is more: a step mostly reads.
    """
    if reading is None or "machine" not in reading.data:
        return float("nan"), float("nan")
    clock, machine = reading.data["clock"], reading.data["machine"]
    bytes_per_s = max(machine.get(f"{kind}_bytes_per_s_{clock}", 0.0) for kind in ("copy", "read"))
    return bytes_per_s, machine[f"flops_{clock}"]


def gpu_budget_rows(reading: Reading | None) -> pd.DataFrame:
    """Decode rows of `dynts` under a budget; empty without a GPU measurement.

    Returns:
        Columns model (the paper's title), budget_tokens, rows, decode_tps, bound_tps, fraction_of_bound, kv_bytes.
    """
    columns = ["model", "budget_tokens", "rows", "decode_tps", "bound_tps", "fraction_of_bound", "kv_bytes"]
    decode = [] if reading is None else reading.data["decode"]
    rows = [
        {**row, "model": MODEL_TITLES.get(row["model"], row["model"])}
        for row in decode if row.get("method") == DYNTS and "budget_tokens" in row and "eager" not in row["name"]
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def paper_speeds() -> pd.DataFrame:
    """Throughput read off the paper's figures: columns model, benchmark, budget_tokens, decode_tps."""
    frame = pd.read_csv(PAPER_BUDGET_CURVES)
    frame = frame.rename(columns={"kv_budget_tokens": "budget_tokens", "throughput_tps": "decode_tps"})
    return frame[["model", "benchmark", "budget_tokens", "decode_tps"]].dropna()
