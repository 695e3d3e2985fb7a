"""`skinny_linear`: the Triton code in the interpreter, how products are divided, and bad input."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from kvrepro.kernels import launch
from kvrepro.kernels import skinny_linear as module
from kvrepro.kernels.launch import ceil_div
from kvrepro.kernels.skinny_linear import Plan, counters_needed, plan, skinny_linear
from torch.nn.functional import linear

from .interpreter import assert_case, case_ids, needs_triton

STEM = "skinny_linear"
H100, A100 = 132, 108


@needs_triton
@pytest.mark.parametrize("name", case_ids(STEM))
def test_kernel_equals_its_twin(name):
    assert_case(STEM, name)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_cpu_gives_what_torch_gives(impl):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 12), torch.randn(7, 12), torch.randn(7)
    assert torch.allclose(skinny_linear(x, weight, bias, impl=impl), linear(x, weight, bias), atol=1e-6)
    half = skinny_linear(x.half(), weight.half(), impl=impl)
    assert half.dtype == torch.float16 and torch.allclose(half.float(), linear(x, weight), atol=2e-2)


@pytest.mark.parametrize("processors", [H100, A100, 1])
def test_a_split_runs_at_once_and_has_counters(processors, monkeypatch):
    monkeypatch.setattr(launch, "processors", lambda device: processors)
    outputs, features = (1, 65, 3584, 4096, 6144, 16_897, 152_064), (0, 1, 1001, 4096, 18_944)
    split = 0
    for n, k, item_bytes in product(outputs, features, (2, 4)):
        made = plan(n, k, item_bytes, processors)
        assert made.block_n in (64, 128) and made.block_n * made.block_k * item_bytes <= module.TILE_BYTES
        if made.splits > 1:
            split += 1
            tiles = ceil_div(n, made.block_n)
            assert tiles * made.splits <= module.PROGRAMS_PER_PROCESSOR * processors
            assert tiles <= counters_needed(torch.device("cpu"))
            assert ceil_div(k, made.block_k) // made.splits >= module.SMALLEST_SPLIT
    assert split


def test_products_of_real_models_fill_an_h100():
    """K, N of the five products of R1-Distill-Llama-8B and R1-Distill-Qwen-7B: every processor has a program."""
    llama = [(4096, 6144), (4096, 4096), (4096, 28672), (14336, 4096), (4096, 128256)]
    qwen = [(3584, 4608), (3584, 3584), (3584, 37888), (18944, 3584), (3584, 152064)]
    found = [plan(n, k, 2, H100) for k, n in llama + qwen]
    assert [(p.block_n, p.splits) for p in found] == [
        *[(64, 2), (64, 4), (128, 1), (64, 4), (128, 1)],
        *[(64, 3), (64, 4), (128, 1), (64, 4), (128, 1)],
    ]
    assert all(ceil_div(n, p.block_n) * p.splits >= H100 for (_, n), p in zip(llama + qwen, found, strict=True))


def launched(**changes):
    given = dict(x=(20, 4096), weight=(4096, 4096), impl="triton")
    for name, value in (given | changes).items():
        given[name] = torch.empty(value, dtype=torch.bfloat16, device="meta") if isinstance(value, tuple) else value
    with launch.recording() as launches:
        skinny_linear(**given)
    return launches


@needs_triton
def test_the_number_of_rows_does_not_change_how_a_row_is_summed():
    ways = [launched(x=(rows, 4096))[0] for rows in (1, 16, 20, 64)]
    summed = [{k: w.constants[k] for k in ("BLOCK_N", "BLOCK_K", "SPLITS")} | {"grid": w.grid} for w in ways]
    assert summed == summed[:1] * 4 and summed[0]["SPLITS"] == 4
    assert [w.constants["ROWS_PAD"] for w in ways] == [16, 16, 32, 64]


@needs_triton
def test_tiles_of_the_caller_are_used():
    (way,) = launched(tiles=Plan(128, 32, 3, stages=5, warps=8))
    assert (way.grid, way.constants["BLOCK_K"], way.stages, way.warps) == ((32, 3), 32, 5, 8)


@needs_triton
def test_amd_sums_in_one_program(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.0")
    (way,) = launched()
    assert way.grid == (64, 1) and way.constants["SPLITS"] == 1


def test_launches_on_a_device_share_zeroed_counters_that_no_capture_may_make(monkeypatch):
    device = torch.device("cpu")
    module._shared_counters.cache_clear()
    first = module._shared_counters(device)
    assert first is module._shared_counters(device) and not first.any()
    assert len(first) == counters_needed(device) and first.dtype == torch.int32
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="call it once before the capture, or pass counters="):
        module._shared_counters(torch.device("cuda", 0))


def test_many_rows_on_a_gpu_are_left_to_torch(monkeypatch):
    class OnGpu(torch.Tensor):
        is_cuda = True

    x, weight = torch.randn(65, 8).as_subclass(OnGpu), torch.randn(4, 8)
    monkeypatch.setattr(launch, "choose", lambda *given: pytest.fail("a path was chosen"))
    assert torch.equal(skinny_linear(x, weight), linear(x, weight))


def call(**changes):
    given = dict(x=torch.zeros(3, 16), weight=torch.zeros(5, 16), bias=torch.zeros(5))
    return skinny_linear(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(3, 1, 16)}, "x has 3 dimensions"),
        ({"weight": torch.zeros(5, 15)}, "weight has size 15 in dimension 1, expected 16"),
        ({"weight": torch.zeros(16, 5).T}, "weight has stride 5 in its last dimension"),
        ({"weight": torch.zeros(5, 16).half()}, "weight is torch.float16"),
        ({"bias": torch.zeros(4)}, "bias has size 4 in dimension 0, expected 5"),
        ({"bias": torch.zeros(5).half()}, "bias is torch.float16"),
        ({"impl": "cublas"}, "impl='cublas'; known are auto, triton, reference"),
    ],
)
def test_bad_input_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        call(**changes)


@needs_triton
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (65, 4096)}, "65 rows are more than 64"),
        ({"counters": torch.zeros(63, dtype=torch.int32)}, r"counters are \(63,\) torch.int32; 64 contiguous int32"),
        ({"counters": torch.zeros(132)}, r"counters are \(132,\) torch.float32"),
    ],
)
def test_what_the_kernel_cannot_run_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        launched(**changes)
