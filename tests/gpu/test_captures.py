"""Captures that fail, models that must not be captured, and the ladder of batch sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from kvrepro.engine.requests import Request

from ..families import FAMILIES
from . import engine_runs
from .engine_runs import CAPTURING, STEADY, make_random_model, requests, run
from .pretend_cuda import BLOCKING, PretendCuda
from .pretend_cuda.kernels import PretendKernels
from .settings import needs_pretend_cuda

pytestmark = needs_pretend_cuda

SIZES = dict(budget=24, asked=requests((5, 9, 13), samples=1), new_tokens=24)


def reading(rotary: nn.Module) -> None:
    """A rotation that asks the device how long the longest row is."""
    forward = rotary.forward

    def with_read(x, position_ids):
        assert int(position_ids.max()) >= 0
        return forward(x, position_ids)

    rotary.forward = with_read


@pytest.fixture(params=["a host read", "a kernel that does not compile"])
def broken_capture(request, monkeypatch):
    """Whatever is captured fails; the same step runs uncaptured."""
    # a failure makes the process give up early launches, which other tests look at
    monkeypatch.setattr("kvrepro.kernels.launch._pdl_failed", False)
    launch = PretendKernels.launch

    def broken_launch(kernels, *args, **kwargs):
        if kernels.gpu.capture is not None:
            raise TypeError("no such builtin")
        launch(kernels, *args, **kwargs)

    def broken_model(kind, **overrides):
        model = make_random_model(kind, **overrides)
        reading(model.model.rotary_emb)
        return model

    if request.param == "a host read":
        monkeypatch.setattr(engine_runs, "make_random_model", broken_model)
    else:
        monkeypatch.setattr(PretendKernels, "launch", broken_launch)
    return request.param


@pytest.mark.parametrize("method", ["full", "rkv"])
def test_a_step_whose_capture_fails_runs_uncaptured_and_says_so(method, broken_capture):
    home = run(method, **SIZES)
    with PretendCuda() as gpu:
        away = run(method, gpu=gpu, **SIZES)
        assert away.told() == home.told()
        assert away.decoder.capture is False and gpu.captures > 0
        assert [w for w in away.warnings if "no CUDA graph could be captured" in w] == away.warnings
        assert "the same step runs launch by launch" in away.warnings[-1]
        assert torch.cuda.current_stream() is torch.cuda.default_stream()
        # fails where the allocator still believes in the capture
        torch.cuda.empty_cache()


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_a_rotation_that_reads_the_device_is_not_captured(rope):
    model = dict(rope_parameters={"rope_theta": 10000.0, **rope}, max_position_embeddings=64)
    if rope["rope_type"] == "longrope":
        model["rope_parameters"]["original_max_position_embeddings"] = 64
    home = run("h2o", **SIZES, **model)
    with PretendCuda() as gpu:
        away = run("h2o", gpu=gpu, **SIZES, **model)
    assert away.told() == home.told()
    assert away.decoder.capture is False and gpu.captures == 0
    assert [w for w in away.warnings if f"rope_type={rope['rope_type']!r} reads the device" in w] == away.warnings != []


@pytest.mark.parametrize("family", ["gemma2", "cohere", "phi3", "smollm3"])
def test_a_model_of_another_family_is_captured_through_its_own_forward(family, monkeypatch):
    row = next(f for f in FAMILIES if f.model_type == family and not f.refusal)

    def small(kind, **overrides):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(row.config()).eval()

    monkeypatch.setattr(engine_runs, "make_random_model", small)
    home = run("rkv", decoder="module", **SIZES)
    with PretendCuda() as gpu:
        away = run("rkv", gpu=gpu, **SIZES)
    assert away.told() == home.told()
    assert (away.decoder.name, away.decoder.capture, away.warnings) == ("graph-module", True, [])
    assert away.stats.evictions > 0 and gpu.journal.found(STEADY, *BLOCKING) == {}


@pytest.mark.parametrize("method", ["full", "dynts", "h2o"])
def test_graphs_of_a_ladder_of_batch_sizes_take_turns_as_rows_leave(method):
    """34 rows, of which the first ones leave early: the graph of 34 rows, then that of 32."""
    asked = [
        Request(r.problem_id, 0, r.prompt_ids, forced_ids=tuple(range(60, 68 + i % 12)))
        for i, r in enumerate(requests([4 + i % 5 for i in range(34)], samples=1))
    ]
    sizes = dict(asked=asked, rows=34, budget=12, new_tokens=20)
    home = run(method, **sizes)
    with PretendCuda() as gpu:
        away = run(method, gpu=gpu, **sizes)
    assert away.told() == home.told()
    assert away.warnings == [] and away.decoder.capture is True
    assert gpu.captures == gpu.journal.visits[CAPTURING] == 2
    if method != "full":
        assert away.stats.evictions > 10
