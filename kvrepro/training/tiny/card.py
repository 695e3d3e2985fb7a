"""The model card of a tiny reasoner: what it was trained on, how, and what it scores with the full cache.

`python -m kvrepro.training.tiny.card tiny-r1-llama` scores the model on the generated benchmarks (5 samples) and
writes `README.md` into its folder.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...benchmarks.generated import GENERATED
from ...files import write_json
from ...paths import CHECKPOINTS
from ...runs.config import CellConfig
from ...runs.runner import run_cell
from .train import CARD_FILE, TINY_MODELS

SCORES_FILE = "scores.json"
_CURVE_POINTS = 12
_RANKING_MEASURES = ("kendall_tau", "top20_overlap", "top20_mass_found")


def score_model(name: str, n_samples: int = 5, threads: int = 1) -> list[dict[str, Any]]:
    """Pass@1 with its interval on every generated benchmark, full cache, R1's sampling."""
    rows = []
    for benchmark in GENERATED:
        config = CellConfig(model=name, benchmark=benchmark, n_samples=n_samples, max_new_tokens=1800, batch_rows=64)
        with tempfile.TemporaryDirectory() as folder:
            score = run_cell(config, Path(folder), threads=threads)["score"]
        rows.append({"benchmark": benchmark, **score})
        print(benchmark, {k: round(v, 4) for k, v in score.items()})
    return rows


def _table(header: str, rows: Iterable[str]) -> str:
    """A Markdown table of rows whose cells are parted by ` | `."""
    rule = " | ".join("---" for _ in header.split(" | "))
    return "".join(f"| {row} |\n" for row in (header, rule, *rows))


def _change(change: dict[str, Any]) -> str:
    """One line of the card on a schedule that was changed while it ran."""
    [(steps, (before, after))] = ((name, values) for name, values in change.items() if name != "step")
    what = f"At step {change['step']} {steps.replace('_', ' ')} went from {before} to {after}"
    return f"- {what}; schedule and curriculum went on from there.\n"


def _importance_section(head: dict[str, Any]) -> str:
    """Scores of the importance head beside its baselines, of its `card.json`."""
    cell = "{mean:.3f} [{lo:.3f}, {hi:.3f}]".format
    rows = (
        " | ".join([name, *(cell(**head["scores"][name][measure]) for measure in _RANKING_MEASURES)])
        for name in ("head", "identity", "position", "random")
    )
    leads = (
        f"{name} {lead['kendall_tau']['mean']:+.3f}, {lead['top20_overlap']['mean']:+.3f}"
        for name, lead in head["lead"].items()
    )
    return f"""
## Importance predictor

`importance/`: trained on {head["labels"]["train"]["labelled"]} correct full-cache traces, scored on \
{head["held_out"]["n_traces"]} held-out ones that neither training nor its stopping used (the recipe was \
chosen on them); 95 % bootstrap intervals over traces. Position and token identity are mean label ranks of \
the training traces.

{_table("score | Kendall tau | overlap of the top 20 % | label mass found in the top 20 %", rows)}
The head leads by (Kendall tau, top-20 % overlap): {"; ".join(leads)}.
"""


def render_card(name: str, training: dict[str, Any], scores: list[dict[str, Any]], head: dict[str, Any] | None) -> str:
    """The card as Markdown with the Hub's front matter."""
    recipe, curve = training["recipe"], training["curve"]
    stride = max(1, len(curve) // _CURVE_POINTS)
    changes = "".join(map(_change, training.get("schedule_changes", [])))
    score_rows = (
        f"{s['benchmark']} | {100 * s['pass_at_1']:.1f} | {100 * s['pass_at_1_lo']:.1f} to "
        f"{100 * s['pass_at_1_hi']:.1f} | {s['n_problems']} x {s['n_samples']} | {s['mean_thinking_tokens']:.0f} | "
        f"{100 * s['truncated_share']:.1f}"
        for s in scores
    )
    curve_rows = (
        f"{p['step']} | {p['loss']:.3f} | {100 * p['token_accuracy']:.1f}"
        for p in [*curve[stride - 1 : -1 : stride], curve[-1]]
    )
    score_header = "benchmark | Pass@1 (%) | 95 % interval | problems x samples | mean thought (tokens) | truncated (%)"
    return f"""---
license: apache-2.0
library_name: transformers
tags: [reasoning, kv-cache, tiny]
---

# {name}

A tiny reasoning model for experiments on KV-cache compression: chains of definitions modulo 10, thought aloud
between `<think>` and `</think>`, answered in a box. `; wait 3` at the end of a question asks for three
passes of verification, which compute the whole chain again: what they find stands. It knows nothing else.

## Full-cache scores

{_table(score_header, score_rows)}
Temperature 0.6, top-p 0.95, top-k 20; intervals clustered by problem. The benchmarks' questions fall in another
split of the question hash than the training questions.

## Training

`python -m kvrepro.training.tiny.train {name} --problem-steps {recipe["problem_steps"]} --long-steps \
{recipe["long_steps"]}`, seed {recipe["seed"]}, {training["train_s"]} s on one core of a shared two-core machine.

- {recipe["repeat_steps"]} steps on random sequences that repeat with period 8 to 24 (look-up forms here), then
  {recipe["problem_steps"]} steps of about {recipe["batch_tokens"]} tokens of worked problems with
  {recipe["smallest"]} to {recipe["largest"]} variables, loss on the reply.
- Then {recipe["long_steps"]} steps of about {recipe["long_batch_tokens"]} tokens of problems with 0 to \
{recipe["most_passes"]} passes of
  verification and up to {recipe["long_largest"]} variables, at most {recipe["longest"]} tokens each. Of the lines
  that a later pass corrects, {recipe["mistake_rate"]:.0%} hold a wrong token, which is read and never learned.
  {recipe["blind_share"]:.0%} of the rows see of their thought the newest {recipe["smallest_window"]} to \
{recipe["largest_window"]} tokens and a share of the others, as after an
  eviction. The tokens that begin a pass and the end of the thought count {recipe["turn_weight"]:.0f} times, also in
  the losses below.
- Muon for the matrices, AdamW for the rest (new for the third stage), bfloat16 autocast, warm-up and cosine per stage.
{changes}
{_table("step | loss | token accuracy (%)", curve_rows)}
The loss has a floor: which line is re-checked, and when, is random.
{"" if head is None else _importance_section(head)}"""


def main(argv: list[str] | None = None) -> None:
    """Score and write the card."""
    parser = argparse.ArgumentParser(prog="python -m kvrepro.training.tiny.card", description=__doc__)
    parser.add_argument("model", choices=TINY_MODELS)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep-scores", action="store_true", help="only write the card anew")
    args = parser.parse_args(argv)
    folder = CHECKPOINTS / args.model
    if not args.keep_scores:
        write_json(folder / SCORES_FILE, score_model(args.model, args.samples, args.threads))
    training, scores, head = (
        json.loads(path.read_text()) if path.is_file() else None
        for path in (folder / CARD_FILE, folder / SCORES_FILE, folder / "importance" / "card.json")
    )
    (folder / "README.md").write_text(render_card(args.model, training, scores, head))
    print(json.dumps({"model": args.model, "card": str(folder / "README.md")}))


if __name__ == "__main__":
    main()
