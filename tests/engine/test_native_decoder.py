"""The compiled decoder inside the engine: chosen where it can be had, and said where it cannot."""

from __future__ import annotations

import random
import warnings

import pytest
import torch

import kvrepro
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.cache.slots import CompressedCache
from kvrepro.engine.decoders import native as native_decoder
from kvrepro.engine.decoders.choose import make_decoder
from kvrepro.engine.decoders.fused import FusedDecoder
from kvrepro.engine.decoders.native import NativeDecoder
from kvrepro.errors import KvreproError

from ..conftest import has_compiler, make_random_model
from ..method_cases import BUDGET, fair

PROMPTS = [[1, *random.Random(i).choices(range(20, 200), k=5 + 9 * i)] for i in range(4)]
METHODS = ("full", "window", "streaming_llm", "dynts", "rkv", "h2o", "lazy_eviction", "raas")
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler here")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@needs_compiler
@pytest.mark.parametrize("method", METHODS)
def test_replies_depend_neither_on_the_batch_nor_on_the_decoder(random_model, tokenizer, method, monkeypatch):
    budget = None if method == "full" else BUDGET

    def run(rows):
        sizes = fair(method) if budget else {}
        found = kvrepro.generate(
            random_model, tokenizer, PROMPTS, method, budget, batch_rows=rows, **({"max_new_tokens": 40} | sizes)
        )
        return [(c.token_ids, c.evictions, c.peak_tokens) for c in found]

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        alone = run(1)
        assert run(3) == alone and run(4) == alone
    monkeypatch.setattr("kvrepro.engine.engine.make_decoder", lambda model, kind: FusedDecoder(model))
    assert run(3) == alone


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_what_a_cpu_takes(random_model, dtype):
    assert isinstance(make_decoder(random_model), NativeDecoder)
    model = make_random_model("llama").to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(make_decoder(model), NativeDecoder)
    logits, hidden = make_decoder(model).step(torch.tensor([5]), cache_of(model))
    assert (logits.dtype, hidden.dtype) == (torch.float32, dtype)


def cache_of(model, rows=1, capacity=6):
    cache, s = CompressedCache(model.config, rows, capacity, dtype=model.dtype), None
    s = cache.shape
    for _ in range(rows):
        cache.admit(*torch.zeros(2, s.layers, s.kv_heads, 5, s.head_dim, dtype=model.dtype))
    return cache


@needs_compiler
def test_what_it_cannot_serve_falls_back_with_a_message():
    half = make_random_model("llama").to(torch.float16)
    with pytest.warns(
        RuntimeWarning, match="weights are torch.float16; it serves one of torch.bfloat16, torch.float32"
    ):
        assert isinstance(make_decoder(half), FusedDecoder)
    with pytest.raises(KvreproError, match="decoder='native' cannot run: the weights are torch.float16"):
        make_decoder(half, "native")
    mixed = make_random_model("llama").to(torch.bfloat16)
    mixed.model.norm.float()
    with pytest.warns(RuntimeWarning, match="weights are torch.bfloat16, torch.float32"):
        assert isinstance(make_decoder(mixed), FusedDecoder)


def test_without_a_compiler_torch_decodes_and_says_so(random_model, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("KVREPRO_CACHE", str(tmp_path))
    native_decoder.unavailable.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="compiled decode step cannot run .no-such-compiler.*slower"):
            assert isinstance(make_decoder(random_model), FusedDecoder)
        with pytest.raises(KvreproError, match="decoder='native' cannot run: no-such-compiler"):
            make_decoder(random_model, "native")
    finally:
        native_decoder.unavailable.cache_clear()


@needs_compiler
def test_a_full_row_and_a_wrong_number_of_rows_are_errors(random_model):
    decoder, cache = make_decoder(random_model, "native"), cache_of(random_model, rows=2)
    with pytest.raises(KvreproError, match="given 1 rows, the cache holds 2"):
        decoder.step(torch.tensor([5]), cache)
    decoder.step(torch.tensor([5, 6]), cache)
    with pytest.raises(KvreproError, match="would need 7 slots, the cache has 6: evict"):
        decoder.step(torch.tensor([5, 6]), cache)
    assert cache.lengths == cache.seen == [6, 6]


def test_a_grid_compiles_once_before_its_cells(monkeypatch, capsys):
    from kvrepro.kernels.native import library

    from kvrepro import cli
    from kvrepro.grids import workflow
    from kvrepro.runs.folder import CellFolder

    built: list = []
    order: list[str] = []
    monkeypatch.setattr("kvrepro.commands.arguments.ensure_library", built.append)
    monkeypatch.setattr(workflow, "run_snakemake", lambda *_: order.append(f"cells after {len(built)} builds") or 0)
    monkeypatch.setattr("kvrepro.commands.running.prepare", lambda *_: None)
    cli.main(["grid", "smoke"])
    assert order == ["cells after 1 builds"]
    assert built == [native_decoder.native_folder()]

    def nothing(folder):
        raise library.NativeUnavailableError("no compiler")

    monkeypatch.setattr("kvrepro.commands.arguments.ensure_library", nothing)
    cli.main(["grid", "smoke"])
    assert "no compiled decode step (no compiler): on a CPU torch's products decode" in capsys.readouterr().err
    # where nothing is left to run, nothing is compiled either
    monkeypatch.setattr(CellFolder, "is_complete", property(lambda folder: True))
    cli.main(["grid", "smoke"])
    assert len(order) == 3
    assert "no compiled decode step" not in capsys.readouterr().err
