"""Tables of the pages in docs/ that hold measured numbers, made from the committed CSVs, model cards and JSON files.

`python -m tests.documented_tables` writes them into the pages, between `<!-- table: NAME -->` and `<!-- end -->`;
test_documented_tables.py compares.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from kvrepro.paths import CHECKPOINTS, PACKAGE
from kvrepro.runs.summary import COLUMNS

ROOT = PACKAGE.parent
IMAGES, MEASUREMENTS = ROOT / "notebooks" / "images", ROOT / "measurements"
MARKED = re.compile(r"<!-- table: ([\w-]+) -->\n(.*?)<!-- end -->\n", re.DOTALL)
FLOAT32, BFLOAT16 = "bench-amd-epyc-float32-20261128-111328.json", "bench-amd-epyc-bfloat16-20261128-113500.json"
VARIANTS = {
    "generate": "generate",
    "reference": "loop",
    "kvpress": "kvpress",
    "dynts_torch": "dynts, torch",
    "window": "window",
    "dynts": "dynts",
}


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table, each line ended."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def read(name: str) -> pd.DataFrame:
    """A published CSV."""
    return pd.read_csv(IMAGES / name)


def interval(mean: float, lo: float, hi: float, digits: int = 0) -> str:
    """`93 [86, 97]`."""
    return f"{mean:.{digits}f} [{lo:.{digits}f}, {hi:.{digits}f}]"


def score(row: pd.Series, digits: int = 0) -> str:
    """Pass@1 in percent with its interval."""
    return interval(row.pass_at_1, row.pass_at_1_lo, row.pass_at_1_hi, digits)


def curve_ends() -> str:
    """What the smallest budget of a panel costs and gains, in the profile `tiny`."""
    frame, rows = read_curves(), []
    for (model, benchmark), panel in frame.groupby(["model", "benchmark"], sort=False):
        full = panel[panel.budget_tokens.isna()].iloc[0]
        cells = panel[panel.budget_tokens.notna()].sort_values("budget_tokens")
        first, last = cells.iloc[0], cells.iloc[-1]
        below = cells[cells.pass_at_1 < full.pass_at_1_lo].budget_tokens.max()
        within = cells[~(cells.budget_tokens <= below)].budget_tokens.min()
        rows.append(
            (
                model,
                benchmark,
                f"{full.pass_at_1 - first.pass_at_1:.1f} at {first.budget_tokens:.0f}",
                or_dash(within, ".0f"),
                or_dash(first.decode_tps / last.decode_tps, ".2f"),
                or_dash(first.tps_vs_full, ".2f"),
            )
        )
    names = ("costs, points", "in full's interval from", "tokens/s to largest", "to full cache")
    return markdown(("model", "benchmark", *names), rows)


def read_curves() -> pd.DataFrame:
    """The table of the profile `tiny`; a speed without an interval was not measured apart and is not shown."""
    frame = read("tiny-summary.csv").reindex(columns=COLUMNS)
    return frame.assign(decode_tps=frame.decode_tps.where(frame.decode_tps_lo.notna()))


def or_dash(value: float, form: str) -> str:
    """A number, or a dash for none."""
    return "\N{EN DASH}" if pd.isna(value) else format(value, form)


def budget_curves(model: str) -> str:
    """Pass@1, throughput and evictions of the cells of one model of the profile `tiny`."""
    rows = [
        (
            r.benchmark,
            "full" if pd.isna(r.budget_tokens) else int(r.budget_tokens),
            score(r, 1),
            "\N{EN DASH}" if pd.isna(r.decode_tps) else speed(r),
            or_dash(r.tps_vs_full, ".2f"),
            f"{r.evictions:,}",
        )
        for r in read_curves().query("model == @model").itertuples()
    ]
    return markdown(("benchmark", "budget", "Pass@1 (%)", "tokens/s", "to full", "evictions"), rows)


def speed(row: pd.Series) -> str:
    """Tokens per second with their interval."""
    return f"{row.decode_tps:,.0f} [{row.decode_tps_lo:,.0f}, {row.decode_tps_hi:,.0f}]"


def methods() -> str:
    """Every method and variant at equal budget, a column per panel."""
    frame = read("tiny-methods.csv")
    panels = {
        ("tiny-r1-qwen", "chain-12"): "Qwen, chain-12",
        ("tiny-r1-llama", "chain-12"): "Llama, chain-12",
        ("tiny-r1-qwen", "sum-16"): "Qwen, sum-16",
        ("tiny-r1-qwen", "long-chain-16"): "Qwen, long-chain-16",
        ("tiny-r1-llama", "long-chain-16"): "Llama, long-chain-16",
    }
    cells = {(r.label, r.model, r.benchmark): r for r in frame.itertuples()}
    rows = []
    for label in dict.fromkeys(frame.label):
        found = [cells[(label, *panel)] for panel in panels]
        rows.append([f"`{label}`", *(_marked(r) for r in found)])
    return markdown(("method", *panels.values()), rows)


def _marked(row: pd.Series) -> str:
    """Bold for the best of a panel, a star for what is not significantly below it."""
    if row.is_best:
        return f"**{score(row)}**"
    return score(row) + (r" \*" if row.is_as_good else "")


def ablations() -> str:
    """The paper's rows as published."""
    frame = read("tiny-ablations.csv")
    own = frame[(frame.label != "dynts") | ((frame.window == 32) & (frame.ratio == 0.75))]
    return markdown(("method", "Pass@1 (%)"), [(f"`{r.label}`", score(r)) for r in own.itertuples()])


def window_ratio() -> str:
    """Pass@1 of dynts over window and ratio."""
    frame = read("tiny-ablations.csv").query("label == 'dynts'")
    cells = {(r.window, r.ratio): r for r in frame.itertuples()}
    ratios = sorted(frame.ratio.unique())
    rows = [(int(w), *(score(cells[w, x]) for x in ratios)) for w in sorted(frame.window.unique())]
    return markdown(("window", *(f"ratio {x}" for x in ratios)), rows)


def divergence(name: str) -> str:
    """KL to the full cache by method and budget, closest at the smallest budget first."""
    frame = read(name)
    table = frame.pivot(index="label", columns="budget_tokens", values="kl").sort_values(min(frame.budget_tokens))
    rows = [(f"`{label}`", *(f"{v:.3f}" if v >= 0.0005 else "<0.001" for v in row)) for label, row in table.iterrows()]
    return markdown(("method", *table.columns), rows)


def kept_parts() -> str:
    """Correct answers from a part of the thought."""
    frame = read("tiny-kept-parts.csv")
    cells = {(r.choice, r.share): r for r in frame.itertuples()}
    choices = ("top", "predicted top", "random", "bottom")
    rows = [
        (f"{100 * s:.0f} %", *(interval(cells[c, s].accuracy, cells[c, s].lo, cells[c, s].hi) for c in choices))
        for s in sorted(frame.share.unique())
    ]
    return markdown(("kept", *choices), rows)


def full_cache() -> str:
    """The tiny models' scores of their cards."""
    models = {"tiny-r1-llama": "Tiny-R1-Llama", "tiny-r1-qwen": "Tiny-R1-Qwen"}
    found = [{s["benchmark"]: s for s in json.loads((CHECKPOINTS / m / "scores.json").read_text())} for m in models]
    rows = []
    for benchmark in found[0]:
        cells = [scores[benchmark] for scores in found]
        values = [interval(*(100 * s[k] for k in ("pass_at_1", "pass_at_1_lo", "pass_at_1_hi")), 1) for s in cells]
        thoughts = " / ".join(f"{s['mean_thinking_tokens']:,.0f}" for s in cells)
        rows.append((f"`{benchmark}`", *values, thoughts))
    return markdown(("Pass@1 (%), 95 % interval", *models.values(), "thought, tokens"), rows)


def heads(measure: str) -> str:
    """The shipped heads beside their baselines."""
    cards = [
        json.loads((CHECKPOINTS / f"tiny-r1-{m}" / "importance" / "card.json").read_text()) for m in ("llama", "qwen")
    ]
    names = {"head": "shipped head", "identity": "token identity", "position": "position", "random": "random"}
    found = {key: [card["scores"][key][measure] for card in cards] for key in names}
    rows = [(names[key], *(interval(v["mean"], v["lo"], v["hi"], 3) for v in values)) for key, values in found.items()]
    return markdown(("score", "Llama", "Qwen"), rows)


def method_cost() -> str:
    """A decode step and the evictions of each method."""
    rows = [
        (
            f"`{r.method}`",
            f"{r.step_ms:.2f}",
            f"{r.step_ratio_to_window:.2f}",
            f"{100 * r.evict_share:.1f}",
            f"{r.decode_tps:,}",
        )
        for r in read("tiny-method-cost.csv").itertuples()
    ]
    return markdown(("method", "step, ms", "to `window`", "evictions, %", "tokens/s"), rows)


def throughput(name: str) -> str:
    """Tokens a second of every setting and variant of one file of `kvrepro bench`."""
    settings = json.loads((MEASUREMENTS / name).read_text())["settings"]
    found: dict[tuple[int, int, int], dict[str, float]] = {}
    for s in settings:
        found.setdefault((s["rows"], s["budget"], s["new_tokens"]), {})[s["variant"]] = s["tps"]
    rows = [
        (f"{b} / {slots:,} / {tokens:,}", *(f"{tps[v]:.0f}" for v in VARIANTS))
        for (b, slots, tokens), tps in sorted(found.items())
    ]
    return markdown(("batch / slots / tokens", *VARIANTS.values()), rows)


def memory(name: str) -> str:
    """K and V, and the whole process, at their peaks."""
    settings = json.loads((MEASUREMENTS / name).read_text())["settings"]
    found = {(s["rows"], s["budget"], s["new_tokens"], s["variant"]): s for s in settings}
    at = ((8, 512, 2048), (8, 512, 8192), (32, 1024, 2048))
    rows = [(title, *(_peaks(found[*setting, variant]) for setting in at)) for variant, title in VARIANTS.items()]
    return markdown(("", *(f"{b} / {slots:,} / {tokens:,}" for b, slots, tokens in at)), rows)


def _peaks(setting: dict[str, int]) -> str:
    return f"{setting['kv_bytes_peak'] >> 20:,} / {setting['peak_rss_bytes'] >> 20:,}"


def parts(name: str) -> str:
    """Where a step's time goes, in percent."""
    split = json.loads((MEASUREMENTS / name).read_text())["split"]
    names = ("projections", "attention", "mlp", "head", "score", "sample", "evict", "other")
    rows = []
    for s in sorted(split, key=lambda s: s["rows"]):
        total = sum(s["parts"].values())
        rows.append((s["rows"], *(f"{100 * s['parts'][n] / total:.0f}" for n in names)))
    return markdown(("batch", *names), rows)


def bars(name: str) -> str:
    """What a run was held to and what it found."""
    found = json.loads((MEASUREMENTS / name).read_text())["bars"]
    rows = [(b["bar"], b["wanted"], f"{b['found']:.3g}", "held" if b["held"] else "missed") for b in found]
    return markdown(("bar", "wanted", "found", ""), rows)


TABLES: dict[str, Callable[[], str]] = {
    "curves": curve_ends,
    "curves-qwen": lambda: budget_curves("tiny-r1-qwen"),
    "curves-llama": lambda: budget_curves("tiny-r1-llama"),
    "methods": methods,
    "ablations": ablations,
    "window-ratio": window_ratio,
    "fidelity-tiny": lambda: divergence("tiny-fidelity.csv"),
    "fidelity-smollm2": lambda: divergence("smollm2-fidelity.csv"),
    "kept-parts": kept_parts,
    "full-cache": full_cache,
    "heads-tau": lambda: heads("kendall_tau"),
    "heads-overlap": lambda: heads("top20_overlap"),
    "method-cost": method_cost,
    "bench-float32": lambda: throughput(FLOAT32),
    "memory-float32": lambda: memory(FLOAT32),
    "parts-float32": lambda: parts(FLOAT32),
    "bars-float32": lambda: bars(FLOAT32),
    "bench-bfloat16": lambda: throughput(BFLOAT16),
    "bars-bfloat16": lambda: bars(BFLOAT16),
}


def write(page: Path) -> None:
    """Put the tables that a page names into it."""
    page.write_text(MARKED.sub(lambda m: f"<!-- table: {m[1]} -->\n{TABLES[m[1]]()}<!-- end -->\n", page.read_text()))


if __name__ == "__main__":
    for path in sorted((ROOT / "docs").glob("*.md")):
        write(path)
