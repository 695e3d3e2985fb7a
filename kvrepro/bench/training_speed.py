"""What caching the hidden states saves: an epoch of the head beside the backbone's pass that it makes unnecessary.

`python -m kvrepro.bench.training_speed tiny-r1-llama` times both in turn, in one run, on traces of random tokens: time
does not depend on the values. `--random` builds the model's shape with random weights, so that no download is needed.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import replace

import torch

from ..cache.shape import CacheShape
from ..errors import KvreproError
from ..methods.learned.importance import ImportancePredictor
from ..models.loading import load_model
from ..models.shapes import build, model_config
from ..models.table import model_entry
from ..training.dataset import Example
from ..training.importance.recipe import PredictorRecipe, make_recipe
from ..training.importance.training import PredictorTraining
from ..training.questions import HELD_OUT, TRAIN
from .step_timer import Laps

# a trace of tiny-r1-llama in the mean of its 496: question, thought and answer, and the thought alone
TRACE_TOKENS, THINKING_TOKENS = 394, 232


class _MadeUp:
    """Traces for timing: random hidden states and labels, all in memory, as `LabelledTraces` offers them."""

    folder, manifest = "made up", {"counts": {}}

    def __init__(self, n_traces: int, thinking: int, width: int):
        generator = torch.Generator().manual_seed(0)
        self.width = width
        self._all = [self._example(f"p{i}", thinking, generator) for i in range(n_traces)]

    def _example(self, name: str, n: int, generator: torch.Generator) -> Example:
        hidden, labels = torch.randn(n, self.width, generator=generator), torch.rand(n, generator=generator)
        return Example(name, hidden, labels, torch.zeros(n).long(), torch.arange(n), 0, n)

    def count(self, split: str) -> int:
        return {TRAIN: len(self._all), HELD_OUT: 2}[split]

    def examples(self, split: str, order: Sequence[int] | None = None):
        return (self._all[i] for i in (range(self.count(split)) if order is None else order))

    def stopping_order(self) -> list[int]:
        return [0]


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
    model,
    recipe: PredictorRecipe,
    *,
    n_traces: int = 16,
    trace_tokens: int = TRACE_TOKENS,
    thinking_tokens: int = THINKING_TOKENS,
    repeats: int = 5,
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
    device = model.device
    width = model.config.get_text_config(decoder=True).hidden_size
    data = _MadeUp(n_traces, thinking_tokens, width)
    training = PredictorTraining(data, replace(recipe, epochs=repeats + 1), device=str(device))
    vocabulary = model.config.get_text_config(decoder=True).vocab_size
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(vocabulary, (n_traces, 1, trace_tokens), generator=generator).to(device)
    decoder = model.get_decoder()

    @torch.inference_mode()
    def backbone() -> None:
        for row in tokens:
            decoder(input_ids=row, use_cache=False)

    def head() -> None:
        training.train_epoch()
        training.epoch += 1

    laps = {head: Laps(device), backbone: Laps(device)}
    for _ in range(repeats + 1):
        for call, lap in laps.items():
            lap.start()
            call()
            lap.lap()
    for lap in laps.values():
        lap.drop(1)  # the first round warms up
    # processor time on a CPU: other processes of a shared machine do not count
    clock = "wall" if device.type == "cuda" else "cpu"
    head_s, backbone_s = (lap.medians()[clock] / 1e3 for lap in laps.values())
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
    sizes = {"n_traces": 16, "trace_tokens": TRACE_TOKENS, "thinking_tokens": THINKING_TOKENS, "repeats": 5}
    for name, default in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    model = _model(args.model, args.random)
    best = make_recipe("best", args.model)
    recipes = {"recipe: best": best, "every token at every step": replace(best, token_share=1.0)}
    rows = {}
    for name, recipe in recipes.items():
        rows[name] = found = epoch_costs(model, recipe, **{size: getattr(args, size) for size in sizes})
        print(
            f"{args.model}, {name}: head {found['head_s']:.3f} s, backbone {found['backbone_s']:.3f} s an epoch of "
            f"{found['n_traces']} traces; {found['times_faster']:.1f} times faster with cached states "
            f"({found['times_faster_by_operations']:.1f} by operations)",
            flush=True,
        )
    print(json.dumps({"model": args.model, "random_weights": args.random, **rows}))


def _model(name: str, with_random_weights: bool):
    if not with_random_weights:
        return load_model(model_entry(name))[0]
    config = copy.deepcopy(model_config(model_entry(name)))
    return build(config, "cuda" if torch.cuda.is_available() else "cpu", "float32")


if __name__ == "__main__":
    main()
