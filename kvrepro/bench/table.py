"""From measured points to settings: tokens per second, memory, ratios, and whether the bars are met."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .reply_time import Reply, reply_ms
from .settings import DYNTS, GENERATE, KVPRESS, OURS, REFERENCE, VARIANTS, WINDOW, BenchSettings

BASELINES = (GENERATE, REFERENCE, KVPRESS)
FULL_BAR, EQUAL_BAR, FLAT_BAR = 2.0, 1.5, 0.10


class Points:
    """The measured points of one run.

    Args:
        data: what `bench.run_bench` returned.
        clock: `wall` or `cpu` milliseconds.
    """

    def __init__(self, data: dict[str, Any], plan: BenchSettings, clock: str):
        self.points, self.plan, self.clock = data["points"], plan, clock

    def find(self, variant: str, batch: int, op: str, budget: int | None = None) -> list[dict[str, Any]]:
        """Points of one variant and batch; those of another budget are left out where the budget matters."""
        found = [p for p in self.points if (p["variant"], p["rows"], p["op"]) == (variant, batch, op)]
        if op == "eviction" or (variant in OURS and budget is not None):
            found = [p for p in found if p["budget"] == budget]
        return found

    def curve(self, variant: str, batch: int, budget: int | None) -> list[dict[str, Any]]:
        """Step points by ascending length, without those that only ask about the position."""
        found = [p for p in self.find(variant, batch, "steps", budget) if not p.get("seen")]
        return sorted(found, key=lambda p: p["length"])

    def middles(self, curve: Sequence[dict[str, Any]]) -> list[float]:
        """The length in the middle of each stretch."""
        return [p["length"] + p["warm_up"] + (p["steps"] - 1) / 2 for p in curve]

    def rounds(self, curve: Sequence[dict[str, Any]]) -> int:
        """Rounds that every point has."""
        return min((len(p[f"{self.clock}_ms"]) for p in curve), default=0)

    def reply_seconds(self, variant: str, batch: int, reply: Reply) -> list[float]:
        """Seconds of decoding a batch of such replies, one value per round; empty where nothing was measured."""
        curve = self.curve(variant, batch, reply.budget)
        evictions = self.find(variant, batch, "eviction", reply.budget) if reply.budget is not None else []
        key, lengths = f"{self.clock}_ms", self.middles(curve)
        return [
            reply_ms(reply, lengths, [p[key][n] for p in curve], evictions[0][key][n] if evictions else 0.0) / 1e3
            for n in range(self.rounds([*curve, *evictions]))
        ]

    def tps(self, variant: str, batch: int, reply: Reply) -> list[float]:
        """Tokens per second, one value per round."""
        return [batch * reply.new_tokens / s for s in self.reply_seconds(variant, batch, reply)]

    def memory(self, variant: str, batch: int, reply: Reply, bytes_per_slot: int) -> dict[str, int | None]:
        """Peak of resident memory nearest to the reply's longest row, K and V at its peak, and as declared."""
        curve = self.curve(variant, batch, reply.budget)
        near = min(curve, key=lambda p: abs(p["length"] + p["warm_up"] + p["steps"] - reply.peak_slots))
        # storage of ours has the size of its budget from the start
        slots = reply.budget + reply.evict_every if variant in OURS else reply.peak_slots
        declared = batch * slots * bytes_per_slot
        held = near["kv_bytes"]
        if variant not in OURS:
            # what a DynamicCache holds grows by a slot per step up to the peak
            held = held // (near["length"] + near["warm_up"] + near["steps"])
            held *= reply.peak_slots
        return {
            "peak_rss_bytes": near["peak_rss_bytes"] if near.get("is_own_peak") else None,
            "kv_bytes_peak": held, "kv_bytes_declared": declared,
        }  # fmt: skip


def setting_rows(data: dict[str, Any], plan: BenchSettings, clock: str, bytes_per_slot: int) -> list[dict[str, Any]]:
    """One row per setting (batch, budget, reply length) and variant; rows of what was not measured are left out.

    `ratio_to_*` is the median over rounds of the ratio of tokens per second within a round.
    """
    points, rows = Points(data, plan, clock), []
    settings = [(batch, budget, plan.new_tokens) for batch in plan.batches for budget in plan.budgets]
    if plan.long_batch in plan.batches and plan.long_tokens > plan.new_tokens:
        # the cost as the reply grows
        lengths = [plan.long_tokens // part for part in (8, 4, 2, 1)]
        settings += [(plan.long_batch, plan.long_budget, n) for n in lengths if n != plan.new_tokens]
    for batch, budget, new_tokens in settings:
        tps = {v: points.tps(v, batch, plan.reply(v, budget, new_tokens)) for v in VARIANTS}
        for variant, own in tps.items():
            if not own:
                continue
            reply = plan.reply(variant, budget, new_tokens)
            row = {"rows": batch, "budget": budget, "new_tokens": new_tokens, "variant": variant}
            row |= {"tps": statistics.median(own), "tps_lo": min(own), "tps_hi": max(own), "rounds": len(own)}
            row |= points.memory(variant, batch, reply, bytes_per_slot)
            for base in BASELINES:
                if variant in OURS and tps[base]:
                    row[f"ratio_to_{base}"] = statistics.median(a / b for a, b in zip(own, tps[base], strict=False))
            rows.append(row)
    return rows


def flatness(data: dict[str, Any], plan: BenchSettings, clock: str) -> dict[str, Any]:
    """Per variant of ours: milliseconds of a step by output tokens before it, and how far they spread."""
    points, found = Points(data, plan, clock), {}
    for variant in OURS:
        mine = [p for p in points.find(variant, plan.long_batch, "steps", plan.long_budget) if p.get("seen")]
        if len(mine) < 2:
            continue
        mine.sort(key=lambda p: p["seen"])
        first = mine[0][f"{clock}_ms"]
        # a round's steps are set against that round's first position
        shares = [statistics.median(a / b for a, b in zip(p[f"{clock}_ms"], first, strict=False)) for p in mine]
        ms = [statistics.median(p[f"{clock}_ms"]) for p in mine]
        found[variant] = {
            "positions": [p["seen"] for p in mine], "step_ms": ms, "to_first": shares,
            "spread": max(abs(s - 1) for s in shares),
        }  # fmt: skip
    return found


def confirmations(data: dict[str, Any], plan: BenchSettings, clock: str) -> list[dict[str, Any]]:
    """Real runs beside the integral over the stretches: seconds of both, and real over integrated."""
    points, rows = Points(data, plan, clock), []
    for real in data["confirm"]:
        reply = Reply(real["prompt"], real["new_tokens"], real["budget"], real["evict_every"])
        promised = points.reply_seconds(real["variant"], real["rows"], reply)
        if promised:
            seconds, middle = real[clock] / 1e3, statistics.median(promised)
            rows.append(
                {"variant": real["variant"], "rows": real["rows"], "budget": real["budget"],
                 "new_tokens": real["new_tokens"], "real_s": seconds, "integrated_s": middle, "ratio": seconds / middle}
            )  # fmt: skip
    return rows


def bars(rows: list[dict[str, Any]], flat: dict[str, Any], plan: BenchSettings) -> list[dict[str, Any]]:
    """Every bar that this package sets itself, with what was found; `held` is None where nothing was measured."""

    def bar(name: str, wanted: str, found: float | None, held: bool | None) -> dict[str, Any]:
        return {"bar": name, "wanted": wanted, "found": found, "held": held}

    result = []
    for variant in (WINDOW, DYNTS):
        mine = [r for r in rows if r["variant"] == variant]
        at = (plan.long_batch, plan.long_budget, plan.long_tokens)
        (found,) = [r.get(f"ratio_to_{GENERATE}") for r in mine if (r["rows"], r["budget"], r["new_tokens"]) == at] or [
            None
        ]
        name = f"{variant}: {at[2]} tokens, budget {at[1]}, batch {at[0]}, to {GENERATE}"
        result.append(bar(name, f">= {FULL_BAR}", found, None if found is None else found >= FULL_BAR))
        for base in (REFERENCE, KVPRESS):
            ratios = [r[f"ratio_to_{base}"] for r in mine if f"ratio_to_{base}" in r]
            least = min(ratios, default=None)
            held = None if least is None else least >= EQUAL_BAR
            result.append(bar(f"{variant}: smallest ratio to {base} of any setting", f">= {EQUAL_BAR}", least, held))
        spread = flat[variant]["spread"] if variant in flat else None
        name = f"{variant}: step time from {plan.positions[0]} to {plan.positions[-1]} output tokens"
        result.append(bar(name, f"within {FLAT_BAR:.0%}", spread, None if spread is None else spread <= FLAT_BAR))
        exact = [r["kv_bytes_peak"] == r["kv_bytes_declared"] for r in mine]
        result.append(
            bar(f"{variant}: K and V bytes as declared", "all", float(sum(exact)), all(exact) if exact else None)
        )
    return result


def setting_name(row: dict[str, Any]) -> str:
    """Short name of a setting for the JSON."""
    return f"B{row['rows']}-C{row['budget']}-n{row['new_tokens']}"


def final_line(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`tps`, `peak_rss_bytes`, `kv_bytes_peak` and `ratios` by setting and variant."""
    result: dict[str, Any] = {"tps": {}, "peak_rss_bytes": {}, "kv_bytes_peak": {}, "ratios": {}}
    for row in rows:
        name, variant = setting_name(row), row["variant"]
        for key in ("tps", "peak_rss_bytes", "kv_bytes_peak"):
            value = row[key]
            result[key].setdefault(name, {})[variant] = round(value, 2) if isinstance(value, float) else value
        ratios = {k.removeprefix("ratio_to_"): round(v, 3) for k, v in row.items() if k.startswith("ratio_to_")}
        if ratios:
            result["ratios"].setdefault(name, {})[variant] = ratios
    return result
