"""Committed measurements as tidy frames: `kvrepro bench` of a CPU and `kvrepro gpu-check` of a GPU."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..cache.shape import CacheShape
from ..errors import KvreproError
from ..models.memory import step_bytes
from ..models.shapes import bench_shape
from .bounds import TITLES as MODEL_TITLES
from .settings import DYNTS, GENERATE, SPLIT_PARTS, TITLES, VARIANTS, BenchSettings
from .table import Points

CPU, GPU = "bench", "gpu-check"
# columns of `settings_of`, as a notebook heads them; `shown` is added there
SETTING_HEADINGS = {
    "new_tokens": "reply (tokens)",
    "title": "loop",
    "shown": "tokens/s",
    "ratio_to_generate": "times transformers",
    "ratio_to_reference": "times reference",
    "ratio_to_kvpress": "times kvpress",
    "kv_mib": "K and V (MiB)",
    "rss_mib": "process (MiB)",
}


@dataclass(frozen=True)
class Measurement:
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

    @cached_property
    def points(self) -> Points:
        """What a CPU's measurement was asked for and found."""
        plan = {name: tuple(v) if isinstance(v, list) else v for name, v in self.data["plan"].items()}
        return Points(self.data, BenchSettings(**plan), self.data["clock"])


def find_measurements(folder: Path) -> list[Measurement]:
    """Every measurement in a folder, oldest first; other files are left alone."""
    found = []
    for path in sorted(folder.glob("*.json")):
        data = json.loads(path.read_text())
        kind = CPU if data.get("kind") == CPU else GPU if {"decode", "checks", "device"} <= set(data) else None
        if kind is not None:
            found.append(Measurement(path, kind, data))
    return sorted(found, key=lambda m: m.data["time"])


def latest(found: list[Measurement], kind: str) -> Measurement | None:
    """The newest of a kind, or None."""
    return next((m for m in reversed(found) if m.kind == kind), None)


def overview(found: list[Measurement]) -> pd.DataFrame:
    """Which files there are, and that there is no GPU's where there is none."""
    rows = [[m.path.name, m.kind, m.device, m.data["time"], m.data["revision"]] for m in found]
    missing = {CPU: "no CPU measurement", GPU: "no GPU measurement: bounds only"}
    rows += [["none", kind, text, "", ""] for kind, text in missing.items() if latest(found, kind) is None]
    return pd.DataFrame(rows, columns=["file", "kind", "device", "time", "revision"])


def label(measured: Measurement | None) -> str:
    """For captions, also of what has not been measured."""
    return "not measured" if measured is None else measured.label


def table_of(measured: Measurement | None, name: str) -> pd.DataFrame:
    """One of a CPU measurement's tables: `settings`, `bars` or `confirmed`; a line that says so where it is empty."""
    rows = [] if measured is None else measured.data[name]
    return pd.DataFrame(rows or [{name: "not measured"}])


def settings_of(measured: Measurement | None, batch: int, budget: int) -> pd.DataFrame:
    """What was measured at one batch and budget: tokens per second with their spread over rounds, ratios, memory.

    Returns:
        Columns new_tokens, title, tps, tps_lo, tps_hi, kv_mib, rss_mib, and the ratios of those that have them.
    """
    frame = pd.DataFrame([] if measured is None else measured.data["settings"])
    if frame.empty:
        return pd.DataFrame(columns=["new_tokens", "title", "tps", "tps_lo", "tps_hi", "kv_mib", "rss_mib"])
    mib = {"kv_mib": frame.kv_bytes_peak / 2**20, "rss_mib": frame.peak_rss_bytes / 2**20}
    frame = frame.assign(title=frame.variant.map(TITLES), **mib)
    chosen = frame[(frame["rows"] == batch) & (frame.budget == budget)]
    return chosen.sort_values("new_tokens", kind="stable", ignore_index=True)


def cost_by_step(measured: Measurement | None, batch: int, budget: int, tokens: int, points: int = 400) -> pd.DataFrame:
    """Step time, tokens per second and K and V bytes against the decode step, per variant of a CPU measurement.

    Returns:
        Columns variant, title, step, step_ms, tps, kv_bytes; no variant that was not measured at this batch.

    Raises:
        KvreproError: the measurement has other batches or budgets; names them.
    """
    if measured is None:
        return pd.DataFrame(columns=["variant", "title", "step", "step_ms", "tps", "kv_bytes"])
    known, frames = measured.points, []
    plan, grid = known.plan, np.unique(np.linspace(0, tokens - 1, points).astype(int))
    for variant in VARIANTS:
        reply = plan.reply(variant, budget, tokens)
        curve = known.curve(variant, batch, reply.budget)
        if not curve:
            continue
        # nothing of a cache that grows is drawn beyond what was measured
        reach = curve[-1]["length"] + curve[-1]["warm_up"] + curve[-1]["steps"] if variant == GENERATE else np.inf
        steps = grid[reply.lengths()[grid] <= reach]
        lengths = reply.lengths()[steps]
        ms = np.interp(lengths, known.middles(curve), [known.median_ms(p) for p in curve])
        kv_bytes = measured.data["bytes_per_slot"] * batch * (lengths + 1)
        columns = {"step": steps + 1, "step_ms": ms, "tps": 1e3 * batch / ms, "kv_bytes": kv_bytes}
        frames.append(pd.DataFrame({"variant": variant, "title": TITLES[variant], **columns}))
    if not frames:
        raise KvreproError(
            f"{measured.path.name} holds nothing for batch={batch}, budget={budget}; it was measured with "
            f"batches {plan.batches} and budgets {plan.budgets}"
        )
    return pd.concat(frames, ignore_index=True)


def time_split(measured: Measurement | None) -> pd.DataFrame:
    """Milliseconds of a step by part: columns rows (batch), part, ms, share."""
    rows = []
    for split in measured.data["split"] if measured is not None else ():
        parts = {part: split["parts"][part] for part in SPLIT_PARTS if part in split["parts"]}
        total = sum(split["parts"].values())
        rows += [[split["rows"], part, ms, ms / total] for part, ms in parts.items()]
    return pd.DataFrame(rows, columns=["rows", "part", "ms", "share"]).sort_values("rows", kind="stable")


def roofline(measured: Measurement | None, weights: int) -> pd.DataFrame:
    """Every variant's step at its budget: operations per byte, operations a second, and the share of the roof.

    Args:
        weights: weights that a step multiplies with (all but the embedding table; tied, so the head's count).

    Returns:
        Columns variant, title, rows, slots, intensity (operations per byte), flops (per second), roof, share.
    """
    columns = ["variant", "title", "rows", "slots", "intensity", "flops", "roof", "share"]
    if measured is None or "machine" not in measured.data:
        return pd.DataFrame(columns=columns)
    known, data, shape, found = measured.points, measured.data, CacheShape.of(bench_shape()), []
    plan, width = known.plan, 4 if data["dtype"] == "float32" else 2
    memory_rate, product_rate = roof_rates(measured)
    for batch in plan.batches:
        for variant in VARIANTS:
            curve = known.curve(variant, batch, plan.long_budget)
            # compressed loops at one length, near their budget; the full cache where it is longest
            wanted = plan.long_tokens if variant == GENERATE else plan.long_budget + plan.evict_every
            for point in sorted(curve, key=lambda p: abs(p["length"] - wanted))[:1]:
                [slots] = known.middles([point])
                attention = 4 * shape.layers * shape.q_heads * shape.head_dim * slots  # two products, 2 operations each
                operations = batch * (2 * weights + attention)
                intensity = operations / step_bytes(weights * width, data["bytes_per_slot"], batch, slots)
                flops = 1e3 * operations / known.median_ms(point)
                roof = min(product_rate, intensity * memory_rate)
                found.append([variant, TITLES[variant], batch, slots, intensity, flops, roof, flops / roof])
    return pd.DataFrame(found, columns=columns)


def roof_rates(measured: Measurement | None) -> tuple[float, float]:
    """Bytes and operations a second that this machine reached, by the measurement's clock; NaN without one.

    Bytes are those of a copy or of a sum over numbers in memory, whichever is more: a step mostly reads.
    """
    if measured is None or "machine" not in measured.data:
        return float("nan"), float("nan")
    clock, machine = measured.data["clock"], measured.data["machine"]
    bytes_per_s = max(machine.get(f"{kind}_bytes_per_s_{clock}", 0.0) for kind in ("copy", "read"))
    return bytes_per_s, machine[f"flops_{clock}"]


def gpu_budget_rows(measured: Measurement | None) -> pd.DataFrame:
    """Decode rows of `dynts` under a budget; empty without a GPU measurement.

    A row that is a variant (the largest batch, a step launch by launch) or that no graph replayed is left out.

    Returns:
        Columns model (the paper's title), budget_tokens, rows, decode_tps, bound_tps and fraction_of_bound (of the rate
        at which the GPU reads), kv_bytes.
    """
    columns = ["model", "budget_tokens", "rows", "decode_tps", "bound_tps", "fraction_of_bound", "kv_bytes"]
    decode = [] if measured is None else measured.data["decode"]
    rows = [r for r in decode if r.get("method") == DYNTS and "budget_tokens" in r]
    rows = [r for r in rows if "variant" not in r and r.get("captured") is not False]
    return pd.DataFrame([r | {"model": MODEL_TITLES.get(r["model"], r["model"])} for r in rows], columns=columns)
