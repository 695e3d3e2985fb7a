"""How many launches a step of R1's shapes is, counted on a device without values: each costs a GPU about as much.

A torch operation counts as one launch, which a library's product or sort may exceed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from kvrepro.engine.batch import Row
from kvrepro.engine.engine import Engine
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.methods.learned.importance import ImportancePredictor, PredictorShape
from kvrepro.methods.table import create_method
from kvrepro.models.shapes import build, true_shape
from kvrepro.models.tokens import ThinkTags

from .pretend_cuda import BLOCKING, PretendCuda
from .settings import needs_pretend_cuda

pytestmark = needs_pretend_cuda

ROWS, BUDGET = 20, 2500


class Nodes(NamedTuple):
    """Launches of a step: in the graph per layer, in the graph beside the layers, and outside of the graph."""

    layer: int
    step: int
    outside: int


# what a step is today; a change that saves launches lowers these, and one that raises them says why
LAUNCHES = {
    "full": Nodes(9, 26, 0),
    "dynts": Nodes(9, 34, 0),
    "rkv": Nodes(10, 27, 0),
    "h2o": Nodes(13, 26, 0),
}


def make_method(name: str, hidden: int, gpu: PretendCuda) -> Any:
    if name == "full":
        return create_method("full")
    options = {}
    if name == "dynts":
        with torch.device("meta"):
            predictor = ImportancePredictor(PredictorShape(hidden, 4 * hidden, hidden)).to(torch.bfloat16)
        options["predictor"] = gpu.move(predictor)
    return create_method(name, BUDGET, window=128, evict_every=128, protocol="fair", **options)


def launches(shape: str, method: str, layers: int) -> tuple[int, int]:
    """Nodes of the graph of a step of a model with so many layers, and launches beside it."""
    config = true_shape(shape)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    with PretendCuda(has_values=False) as gpu:
        model = gpu.move(build(config, "meta", "bfloat16"))
        chosen = make_method(method, config.hidden_size, gpu)
        engine = Engine(
            model, chosen, ThinkTags((1,)), (), sampling=SamplingConfig(), batch_rows=ROWS, max_new_tokens=4096
        )
        state = engine.open(ROWS, BUDGET + 128)
        shape_of = state.cache.shape
        prompt = torch.empty(2, shape_of.layers, shape_of.kv_heads, 100, shape_of.head_dim, device="meta")
        with torch.inference_mode():
            for index in range(ROWS):
                state.cache.admit(*gpu.tensor(prompt.bfloat16()))
                state.batch.admit(Row(Request(str(index), 0, (1,) * 100), 0), 5)
            # no step decides anything, so none reads a token
            state.sync_step = 1000
            with gpu.journal.section("first"):
                engine.step(state)
            with gpu.journal.section("second"):
                engine.step(state)
    assert engine.decoder.capture and gpu.captures == 1, f"{method} was not captured"
    assert gpu.journal.found("second", *BLOCKING, "node") == {}
    return gpu.journal.total("first", "node"), gpu.journal.total("second", "launch")


@pytest.mark.parametrize("shape", ["r1-llama-8b", "r1-qwen-7b"])
@pytest.mark.parametrize("method", LAUNCHES)
def test_launches_of_a_step_are_those_of_the_table(shape, method):
    (two, outside), (four, _) = (launches(shape, method, layers) for layers in (2, 4))
    per_layer = (four - two) / 2
    assert Nodes(per_layer, two - 2 * per_layer, outside) == LAUNCHES[method]
