"""Models without a step of their own, captured around their forward."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from ..families import FAMILIES
from . import engine_runs
from .engine_runs import STEADY, requests, run
from .pretend_cuda import BLOCKING, PretendCuda
from .settings import needs_pretend_cuda

pytestmark = needs_pretend_cuda

SIZES = dict(budget=24, asked=requests((5, 9, 13), samples=1), new_tokens=24)
OTHERS = [f for f in FAMILIES if f.refusal is None and f.model_type not in ("llama", "qwen2")]


# attention of every step in every family, the other kinds of state in one
CASES = [*((family, "h2o") for family in OTHERS), (OTHERS[0], "dynts"), (OTHERS[0], "rkv")]


@pytest.mark.parametrize(("family", "method"), CASES, ids=lambda x: x if isinstance(x, str) else x.label)
def test_a_graph_holds_the_models_own_forward(family, method, monkeypatch):
    def model(kind):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(family.config()).eval()

    monkeypatch.setattr(engine_runs, "make_random_model", model)
    home = run(method, decoder="module", **SIZES)
    with PretendCuda() as gpu:
        away = run(method, gpu=gpu, **SIZES)
    assert away.told() == home.told()
    assert away.warnings == [] and away.decoder.name == "graph-module"
    assert away.decoder.capture is True and gpu.captures == 1


@pytest.mark.parametrize("decoder", ["module", "fused"])
def test_steps_that_no_graph_holds_wait_for_nothing_either(decoder):
    home = run("rkv", decoder=decoder, **SIZES)
    with PretendCuda() as gpu:
        away = run("rkv", gpu=gpu, decoder=decoder, **SIZES)
    assert away.told() == home.told()
    assert away.decoder.name == decoder and gpu.captures == 0
    assert gpu.journal.visits[STEADY] > 10 and gpu.journal.found(STEADY, *BLOCKING) == {}
