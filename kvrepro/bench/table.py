"""The table of `kvrepro bench`, from measured points: tokens per second, memory, ratios, and which bars are met."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from statistics import median
from typing import Any

from .laps import median_ratio
from .reply_time import Reply, reply_ms
from .settings import DYNTS, GENERATE, KVPRESS, OURS, REFERENCE, TITLES, VARIANTS, WINDOW, BenchSettings

BASELINES = (GENERATE, REFERENCE, KVPRESS)
FULL_BAR, EQUAL_BAR, FLAT_BAR = 2.0, 1.5, 0.10


class Points:
    """The measured points of one run.

    Args:
        data: what `bench.run_bench` returned.
        clock: `wall` or `cpu` milliseconds.
    """

    def __init__(self, data: dict[str, Any], plan: BenchSettings, clock: str):
        self.points, self.plan, self.clock, self.key = data["points"], plan, clock, f"{clock}_ms"

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

    def median_ms(self, point: dict[str, Any]) -> float:
        """Median of the rounds."""
        return median(point[self.key])

    def reply_seconds(self, variant: str, batch: int, reply: Reply) -> list[float]:
        """Seconds of decoding a batch of such replies, one value per round; empty where nothing was measured."""
        curve = self.curve(variant, batch, reply.budget)
        evictions = self.find(variant, batch, "eviction", reply.budget) if reply.budget is not None else []
        lengths, evict_ms = self.middles(curve), evictions[0][self.key] if evictions else repeat(0.0)
        # round by round, those that every point has
        rounds = zip(zip(*(p[self.key] for p in curve), strict=False), evict_ms, strict=False)
        return [reply_ms(reply, lengths, ms, eviction_ms) / 1e3 for ms, eviction_ms in rounds]

    def tps(self, variant: str, batch: int, reply: Reply) -> list[float]:
        """Tokens per second, one value per round."""
        return [batch * reply.new_tokens / s for s in self.reply_seconds(variant, batch, reply)]

    def memory(self, variant: str, batch: int, reply: Reply, bytes_per_slot: int) -> dict[str, int | None]:
        """Peak of resident memory nearest to the reply's longest row, K and V at its peak, and as declared."""
        curve = self.curve(variant, batch, reply.budget)
        near = min(curve, key=lambda p: abs(p["length"] + p["warm_up"] + p["steps"] - reply.peak_slots))
        peak_rss = near["peak_rss_bytes"] if near.get("is_own_peak") else None
        held, slots = near["kv_bytes"], reply.peak_slots
        if variant in OURS:
            # storage of ours has the size of its budget from the start
            slots = reply.budget + reply.evict_every
        else:
            # what a DynamicCache holds grows by a slot per step up to the peak
            held = held // (near["length"] + near["warm_up"] + near["steps"]) * slots
        declared = batch * slots * bytes_per_slot
        return {"peak_rss_bytes": peak_rss, "kv_bytes_peak": held, "kv_bytes_declared": declared}


def setting_rows(points: Points, bytes_per_slot: int) -> list[dict[str, Any]]:
    """One row per setting (batch, budget, reply length) and variant; rows of what was not measured are left out.

    `ratio_to_*` is the median over rounds of the ratio of tokens per second within a round.
    """
    plan, rows = points.plan, []
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
            row |= {"tps": median(own), "tps_lo": min(own), "tps_hi": max(own), "rounds": len(own)}
            row |= points.memory(variant, batch, reply, bytes_per_slot)
            for base in BASELINES:
                if variant in OURS and tps[base]:
                    row[f"ratio_to_{base}"] = median_ratio(own, tps[base])
            rows.append(row)
    return rows


def flatness(points: Points) -> dict[str, Any]:
    """Per variant of ours: milliseconds of a step by output tokens before it, and how far they spread."""
    found = {}
    for variant in OURS:
        mine = points.find(variant, points.plan.long_batch, "steps", points.plan.long_budget)
        mine = sorted((p for p in mine if p.get("seen")), key=lambda p: p["seen"])
        if len(mine) < 2:
            continue
        # a round's steps are set against that round's first position
        shares = [median_ratio(p[points.key], mine[0][points.key]) for p in mine]
        found[variant] = {"positions": [p["seen"] for p in mine], "step_ms": [points.median_ms(p) for p in mine]}
        found[variant] |= {"to_first": shares, "spread": max(abs(s - 1) for s in shares)}
    return found


def confirmations(points: Points, confirm: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whole replies beside the sum over stretches (`integrated`): seconds of both, and real over integrated."""
    rows = []
    for real in confirm:
        reply = Reply(real["prompt"], real["new_tokens"], real["budget"], real["evict_every"])
        promised = points.reply_seconds(real["variant"], real["rows"], reply)
        if promised:
            seconds, middle = real[points.clock] / 1e3, median(promised)
            row = {name: real[name] for name in ("variant", "rows", "budget", "new_tokens")}
            rows.append(row | {"real_s": seconds, "integrated_s": middle, "ratio": seconds / middle})
    return rows


def bars(rows: list[dict[str, Any]], flat: dict[str, Any], plan: BenchSettings) -> list[dict[str, Any]]:
    """Every bar that this package sets itself, with what was found; `held` is None where nothing was measured."""
    result = []

    def add(name: str, wanted: str, found: float | None, held: bool | None) -> None:
        result.append({"bar": name, "wanted": wanted, "found": found, "held": None if found is None else held})

    for variant in (WINDOW, DYNTS):
        mine = [r for r in rows if r["variant"] == variant]
        at = (plan.long_batch, plan.long_budget, plan.long_tokens)
        long = [r for r in mine if (r["rows"], r["budget"], r["new_tokens"]) == at]
        found = long[0].get(f"ratio_to_{GENERATE}") if long else None
        name = f"{variant}: {at[2]} tokens, budget {at[1]}, batch {at[0]}, to {GENERATE}"
        add(name, f">= {FULL_BAR}", found, found is not None and found >= FULL_BAR)
        for base in (REFERENCE, KVPRESS):
            least = min((r[f"ratio_to_{base}"] for r in mine if f"ratio_to_{base}" in r), default=None)
            name = f"{variant}: smallest ratio to {base} of any setting"
            add(name, f">= {EQUAL_BAR}", least, least is not None and least >= EQUAL_BAR)
        spread = flat[variant]["spread"] if variant in flat else None
        name = f"{variant}: step time from {plan.positions[0]} to {plan.positions[-1]} output tokens"
        add(name, f"within {FLAT_BAR:.0%}", spread, spread is not None and spread <= FLAT_BAR)
        exact = [r["kv_bytes_peak"] == r["kv_bytes_declared"] for r in mine]
        add(f"{variant}: K and V bytes as declared", "all", float(sum(exact)), all(exact) if exact else None)
    return result


def final_line(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`tps`, `peak_rss_bytes`, `kv_bytes_peak` and `ratios` by setting and variant."""
    result: dict[str, Any] = {"tps": {}, "peak_rss_bytes": {}, "kv_bytes_peak": {}, "ratios": {}}
    for row in rows:
        name, variant = f"B{row['rows']}-C{row['budget']}-n{row['new_tokens']}", row["variant"]
        for key in ("tps", "peak_rss_bytes", "kv_bytes_peak"):
            value = row[key]
            result[key].setdefault(name, {})[variant] = round(value, 2) if isinstance(value, float) else value
        ratios = {k.removeprefix("ratio_to_"): round(v, 3) for k, v in row.items() if k.startswith("ratio_to_")}
        if ratios:
            result["ratios"].setdefault(name, {})[variant] = ratios
    return result


def render(report: dict[str, Any]) -> str:
    """The table that is printed."""
    mib = 2**20
    lines = [
        f"{'B':>3} {'budget':>6} {'tokens':>6} {'variant':34} {'tokens/s':>9} {'RSS MiB':>8} {'KV MiB':>7}  ratio to"
    ]
    for r in report["settings"]:
        rss = f"{r['peak_rss_bytes'] / mib:8.0f}" if r["peak_rss_bytes"] else f"{'-':>8}"
        ratios = [f"{b} {r[f'ratio_to_{b}']:.2f}" for b in BASELINES if f"ratio_to_{b}" in r]
        lines.append(
            f"{r['rows']:3} {r['budget']:6} {r['new_tokens']:6} {TITLES[r['variant']]:34} {r['tps']:9.1f} {rss} "
            f"{r['kv_bytes_peak'] / mib:7.0f}  {', '.join(ratios)}"
        )
    for variant, flat in report["flat"].items():
        steps = ", ".join(f"{ms:.1f} ms at {n}" for n, ms in zip(flat["positions"], flat["step_ms"], strict=True))
        lines.append(f"{variant} by output tokens: {steps}")
    for c in report["confirmed"]:
        lines.append(
            f"{c['variant']}: {c['new_tokens']} tokens took {c['real_s']:.1f} s, integrated {c['integrated_s']:.1f} s"
        )
    for s in report["skipped"]:
        lines.append("left out: " + ", ".join(f"{k} {v}" for k, v in s.items()))
    for b in report["bars"]:
        found = "not measured" if b["found"] is None else f"{b['found']:.3g}"
        verdict = {True: "held", False: "MISSED", None: "open"}[b["held"]]
        lines.append(f"{verdict:6} {b['bar']}: {found}, wanted {b['wanted']}")
    return "\n".join(lines)
