"""The products of a decode step: their shapes, and rows that hold what was measured or say why nothing was."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from kvrepro.kernels import launch
from kvrepro.kernels.skinny_linear import plan, skinny_linear
from torch.nn.functional import linear
from transformers import Qwen2Config

from kvrepro.bench import products as module
from kvrepro.bench.products import Product, product_rows, products, variants
from kvrepro.errors import UnknownNameError

from ..kernels.interpreter import needs_triton

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "hidden", "inner", "qkv", "vocabulary", "bias"),
    [("r1-llama-8b", 4096, 14336, 6144, 128256, False), ("r1-qwen-7b", 3584, 18944, 4608, 152064, True)],
)
def test_products_are_those_of_the_published_shapes(name, hidden, inner, qkv, vocabulary, bias):
    assert products(name) == [
        Product("qkv", qkv, hidden, bias),
        Product("out", hidden, hidden, False),
        Product("gate_up", 2 * inner, hidden, False),
        Product("down", hidden, inner, False),
        Product("head", vocabulary, hidden, False),
    ]


def test_an_unknown_shape_is_named():
    with pytest.raises(UnknownNameError, match="r1-llama-8b, r1-qwen-7b"):
        list(product_rows("llama", 2, "cpu"))


@pytest.fixture
def small(monkeypatch):
    """A shape of a few numbers, read 3 times."""
    sizes = dict(vocab_size=40, hidden_size=24, intermediate_size=32, num_attention_heads=4, num_key_value_heads=2)
    monkeypatch.setattr(module, "true_shape", lambda name: Qwen2Config(**sizes, num_hidden_layers=3))
    monkeypatch.setattr(module, "READ_BYTES", 3 * 2 * 40 * 24)


def test_on_a_cpu_torch_is_timed_and_the_kernel_says_that_it_cannot_run(small):
    rows = list(product_rows("small", 5, "cpu", capture=False))
    assert [(row["product"], row["provider"]) for row in rows] == [
        (product, provider) for product in ("qkv", "out", "gate_up", "down", "head") for provider in ("torch", "triton")
    ]
    assert len({frozenset(row) for row in rows}) == 1
    for row in rows[::2]:
        assert row["error"] is None and row["tiles"] is None and not row["captured"]
        assert 0 < row["ms_p20"] <= row["ms_p50"] <= row["ms_p80"] and row["m"] == 5
        assert row["gb_per_s"] == pytest.approx(2 * row["n"] * row["k"] / row["ms_p50"] / 1e6)
    for row in rows[1::2]:
        assert "the tensors are on cpu, not on a GPU" in row["error"] and row["tiles"]["block_n"] == 64
        assert {row[key] for key in ("ms_p20", "ms_p50", "ms_p80", "gb_per_s", "launches")} == {None}
    assert [row["bias"] for row in rows[::2]] == [True] + 4 * [False]
    assert rows[-2]["launches"] == 3 and rows[2]["launches"] == 5


def prefer(monkeypatch):
    """A torch that knows both libraries, as one built for a GPU does; returns what it was told."""
    told = ["default"]

    def preferred(library=None):
        told.extend([library] if library else [])
        return told[-1]

    monkeypatch.setattr(torch.backends.cuda, "preferred_blas_library", preferred)
    return told


def on_gpu(monkeypatch, functions, times):
    """Providers of a GPU with a pretended clock; `times` collects what was to be captured."""
    operands = module._operands

    def pretended(*given):
        made = operands(*given)
        return SimpleNamespace(**vars(made) | {"x": made.x.as_subclass(OnGpu)})

    def timed(run, capture, device):
        run()
        times.append(capture)
        return [6.0, 3.0, 9.0, 6.0, 6.0]

    monkeypatch.setattr(module, "_operands", lambda product, rows, device: pretended(product, rows, CPU))
    monkeypatch.setattr(module, "processors", lambda device: 132)
    monkeypatch.setattr(module, "time_ms", timed)
    monkeypatch.setattr(module, "_function", lambda kind, tiles, counters: functions[kind])


class OnGpu(torch.Tensor):
    is_cuda = True


def test_a_provider_that_breaks_or_errs_leaves_the_others_their_rows(small, monkeypatch):
    told, used, times = prefer(monkeypatch), [], []

    def right(*given):
        used.append(told[-1])
        return linear(*given)

    def broken(*given):
        raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED")

    on_gpu(monkeypatch, {"cublas": right, "cublaslt": broken, "triton": lambda *given: -linear(*given)}, times)
    cublas, cublaslt, triton = list(product_rows("small", 2))[-3:]
    assert cublas["error"] is None and cublas["captured"] and cublas["ms_p50"] == 2.0 and cublas["ms_p20"] < 2.0
    assert cublaslt["error"] == "RuntimeError: CUBLAS_STATUS_NOT_SUPPORTED" and not cublaslt["captured"]
    assert "the result is off by 2 of its largest value; not timed" in triton["error"] and triton["ms_p50"] is None
    assert set(used) == {"cublas"} and times == [True] * 5
    # put back after a provider that raised as well
    assert told == ["default", *["cublas", "default", "cublaslt", "default"] * 5]


def test_without_a_capture_rows_say_so(small, monkeypatch):
    times, _ = [], prefer(monkeypatch)
    on_gpu(monkeypatch, dict.fromkeys(("cublas", "cublaslt", "triton"), linear), times)
    rows = list(product_rows("small", 2, capture=False))
    assert not any(row["captured"] for row in rows) and times == [False] * 15
    assert [row["provider"] for row in rows[:3]] == ["cublas", "cublaslt", "triton"]


@needs_triton
@pytest.mark.parametrize("product", [*products("r1-llama-8b"), *products("r1-qwen-7b")], ids=lambda p: f"{p.n}x{p.k}")
def test_a_sweep_tries_other_plans_that_launch(product):
    made = plan(product.n, product.k, 2, launch.DEFAULT_PROCESSORS)
    tried = variants(made, product, CPU)
    assert made not in tried and len(set(tried)) == len(tried) >= 5
    x, weight = (torch.empty(n, product.k, dtype=torch.bfloat16, device="meta") for n in (20, product.n))
    counters = torch.empty(module.COUNTERS, dtype=torch.int32, device="meta")
    with launch.recording() as launches:
        for tiles in tried:
            skinny_linear(x, weight, tiles=tiles, counters=counters, impl="triton")
    assert [x.constants["SPLITS"] for x in launches] == [tiles.splits for tiles in tried]


def test_a_sweep_adds_rows(small):
    rows = list(product_rows("small", 2, "cpu", capture=False, sweep=True))
    tiles = [tuple(row["tiles"].values()) for row in rows if row["product"] == "out" and row["provider"] == "triton"]
    assert len(set(tiles)) == len(tiles) >= 6
