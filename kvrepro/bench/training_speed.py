"""What caching the hidden states saves: an epoch of the head beside the backbone's pass that it makes unnecessary.

`python -m kvrepro.bench.training_speed tiny-r1-llama` times both in turn, in one run, on traces of random tokens: time
does not depend on the values. `--random` builds the model's shape with random weights, so that no download is needed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial
from statistics import median

import torch

from ..cache.shape import CacheShape
from ..errors import KvreproError
from ..methods.learned.importance import ImportancePredictor
from ..models.loading import load_model
from ..models.shapes import build, model_config
from ..models.table import model_entry
from ..training.dataset import Example, LabelledTraces
from ..training.importance.recipe import PredictorRecipe, make_recipe
from ..training.importance.training import PredictorTraining
from ..training.questions import HELD_OUT, TRAIN
from .laps import in_turn, timed

# as options: a trace of tiny-r1-llama without verification (question, thought and answer, and the thought alone)
SIZES = {"n_traces": 16, "trace_tokens": 394, "thinking_tokens": 232, "repeats": 5}


class _MadeUp(LabelledTraces):
    """Traces for timing: random hidden states and labels, all in memory."""

    def __init__(self, n_traces: int, thinking: int, width: int):
        generator, n = torch.Generator().manual_seed(0), thinking
        unused = torch.zeros(n).long(), torch.arange(n), 0, n
        examples = [
            Example(f"p{i}", torch.randn(n, width, generator=generator), torch.rand(n, generator=generator), *unused)
            for i in range(n_traces)
        ]
        self.rows = {TRAIN: examples, HELD_OUT: examples[:2]}

    def _load(self, row: Example) -> Example:
        return row


def head_operations(head: ImportancePredictor, tokens: float) -> float:
    """Operations of one training pass over `tokens`: forward, and backward but to the first layer's input."""
    weights = [layer.weight.numel() for layer in head.layers]
    return tokens * (4 * sum(weights) + 2 * sum(weights[1:]))


def backbone_operations(model, trace_tokens: int) -> float:
    """Operations of one forward pass over a trace: two per weight and token but the tables', and causal attention."""
    shape = CacheShape.of(model.config)
    weights = sum(p.numel() for p in model.get_decoder().parameters()) - model.get_input_embeddings().weight.numel()
    pairs = trace_tokens * (trace_tokens + 1) / 2
    return 2 * weights * trace_tokens + 4 * shape.layers * shape.q_heads * shape.head_dim * pairs


def epoch_costs(
    model, recipe: PredictorRecipe, *, n_traces: int, trace_tokens: int, thinking_tokens: int, repeats: int
) -> dict[str, float]:
    """Seconds of one epoch of the head and of the backbone's pass over the same traces, timed in turn.

    The backbone's pass is the least that an epoch without a cache needs on top: hidden states of whole traces, without
    labels, logits or gradients, one trace at a time and so without padding. The head's epoch is everything that
    training does between two looks at the held-out traces, optimiser steps included.

    Args:
        n_traces: traces of an epoch. repeats: of both; the medians are reported.

    Returns:
        `head_s`, `backbone_s` (processor time on a CPU, wall clock on a GPU), `times_faster` = (backbone + head) /
        head, and the same from counted operations as `times_faster_by_operations`.

    Raises:
        KvreproError: sizes that mean nothing.
    """
    if not 0 < thinking_tokens < trace_tokens or n_traces < 2 or repeats < 1:
        raise KvreproError(
            f"n_traces={n_traces}, trace_tokens={trace_tokens}, thinking_tokens={thinking_tokens}, repeats={repeats}: "
            "at least 2 traces and 1 repeat, and the thought is a part of the trace"
        )
    device, text = model.device, model.config.get_text_config(decoder=True)
    data = _MadeUp(n_traces, thinking_tokens, text.hidden_size)
    training = PredictorTraining(data, replace(recipe, epochs=repeats + 1), device=str(device))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(text.vocab_size, (n_traces, 1, trace_tokens), generator=generator).to(device)

    @torch.inference_mode()
    def backbone() -> None:
        for row in tokens:
            model.get_decoder()(input_ids=row, use_cache=False)

    def head() -> None:
        training.train_epoch()
        training.epoch += 1

    works = {name: partial(timed, work, device) for name, work in (("head", head), ("backbone", backbone))}
    _, *rounds = in_turn(works, repeats + 1)  # the first round warms up
    # processor time on a CPU: other processes of a shared machine do not count
    clock = "wall" if device.type == "cuda" else "cpu"
    head_s, backbone_s = (median(found[name][clock] for found in rounds) / 1e3 for name in works)
    drawn = n_traces * max(1, round(recipe.token_share * thinking_tokens))
    operations = head_operations(training.head, drawn), n_traces * backbone_operations(model, trace_tokens)
    sizes = {"n_traces": n_traces, "trace_tokens": trace_tokens, "thinking_tokens": thinking_tokens}
    return sizes | {
        "token_share": recipe.token_share,
        "head_s": round(head_s, 4),
        "backbone_s": round(backbone_s, 4),
        "times_faster": round((backbone_s + head_s) / head_s, 1),
        "times_faster_by_operations": round(sum(operations) / operations[0], 1),
    }


def main(argv: list[str] | None = None) -> None:
    """Time and print one line per recipe, then one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m kvrepro.bench.training_speed", description=__doc__)
    parser.add_argument("model", help="a name from `kvrepro list models`")
    parser.add_argument("--random", action="store_true", help="the model's shape with random weights")
    parser.add_argument("--threads", type=int, default=1)
    for name, default in SIZES.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    entry = model_entry(args.model)
    if args.random:
        model = build(model_config(entry), "cuda" if torch.cuda.is_available() else "cpu", "float32")
    else:
        model, _ = load_model(entry)
    best = make_recipe("best", args.model)
    recipes = {"recipe: best": best, "every token at every step": replace(best, token_share=1.0)}
    rows = {}
    for name, recipe in recipes.items():
        rows[name] = found = epoch_costs(model, recipe, **{size: getattr(args, size) for size in SIZES})
        print(
            f"{args.model}, {name}: head {found['head_s']:.3f} s, backbone {found['backbone_s']:.3f} s an epoch of "
            f"{found['n_traces']} traces; {found['times_faster']:.1f} times faster with cached states "
            f"({found['times_faster_by_operations']:.1f} by operations)",
            flush=True,
        )
    print(json.dumps({"model": args.model, "random_weights": args.random, **rows}))


if __name__ == "__main__":
    main()
