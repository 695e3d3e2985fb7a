"""The graph decoder's step, uncaptured and with the kernels' torch twins, against the decoders that run on a CPU."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM

import kvrepro
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.cache.attention import slot_attention
from kvrepro.cache.slots import CompressedCache, KeepPlan
from kvrepro.engine import engine
from kvrepro.engine.async_tokens import AsyncTokens
from kvrepro.engine.decoders import graph as graph_decoder
from kvrepro.engine.decoders.choose import make_decoder
from kvrepro.engine.decoders.fused import FusedDecoder
from kvrepro.engine.decoders.graph import GraphDecoder
from kvrepro.engine.decoders.module import ModuleDecoder
from kvrepro.errors import KvreproError

from ..conftest import make_random_model
from ..families import FAMILIES
from ..method_cases import BUDGET, fair

PROMPTS = [[1, *random.Random(i).choices(range(20, 200), k=5 + 9 * i)] for i in range(4)]
# kinds of state: none, per slot, remembered queries, one kept set or one per head, keys that are rotated again, the
# attention of every step
METHODS = ("full", "window", "streaming_llm", "dynts", "rkv", "h2o", "lazy_eviction", "raas")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.mark.parametrize("with_tail", [False, True], ids=["step", "step-and-tail"])
@pytest.mark.parametrize("method", METHODS)
def test_replies_are_those_of_the_fused_decoder(random_model, tokenizer, method, with_tail, monkeypatch):
    """Rows enter, leave and evict between steps; two rows for four prompts, so batch sizes change as well.

    With the tail, observation and sampling are part of what a graph would hold, rows that are not live included.
    """
    graph_decoder.say_once.cache_clear()
    budget = None if method == "full" else BUDGET

    def run():
        sizes = fair(method) if budget else {}
        found = kvrepro.generate(
            random_model, tokenizer, PROMPTS, method, budget, batch_rows=3, **({"max_new_tokens": 40} | sizes)
        )
        return [(c.token_ids, c.evictions, c.peak_tokens) for c in found]

    expected = run()
    used, steps = [], []
    monkeypatch.setattr(engine, "make_decoder", lambda model, kind: used.append(GraphDecoder(model)) or used[-1])
    monkeypatch.setattr(GraphDecoder, "captures", with_tail)
    name = "step_and_draw" if with_tail else "step"
    step = getattr(GraphDecoder, name)
    monkeypatch.setattr(GraphDecoder, name, lambda self, *given: steps.append(1) or step(self, *given))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert run() == expected
    assert used[0].capture is False and steps
    assert used[0].cache is None, "the decoder keeps the memory of a cache that is done"


def caches(model, rows=3, capacity=12):
    """Two equal caches with rows of 4 and 7 tokens, and NaN in every slot that is not in use."""
    torch.manual_seed(1)
    made = [CompressedCache(model.config, rows, capacity) for _ in range(2)]
    s = made[0].shape
    for n in (4, 7):
        keys, values = torch.randn(2, s.layers, s.kv_heads, n, s.head_dim)
        for cache in made:
            cache.admit(keys, values)
    made[1].kv[:, :, 2:] = torch.nan
    for row, n in enumerate(made[1].lengths):
        made[1].kv[:, :, row, :, n:] = torch.nan
    return made


@torch.inference_mode()
def test_logits_counters_and_positions_follow_the_fused_decoder_through_an_eviction(random_model):
    wanted_cache, cache = caches(random_model)
    wanted, decoder = FusedDecoder(random_model), GraphDecoder(random_model)
    for step in range(7):
        tokens = torch.tensor([30 + step, 60 + step])
        expected, found = wanted.step(tokens, wanted_cache), decoder.step(tokens, cache)
        for e, f in zip(expected, found, strict=True):
            assert torch.allclose(e, f, atol=1e-4)
        assert (cache.lengths, cache.seen, cache.peak_tokens) == (
            wanted_cache.lengths,
            wanted_cache.seen,
            wanted_cache.peak_tokens,
        )
        assert cache.counters.lengths.tolist() == [*cache.lengths, -1]
        assert cache.counters.seen[:2].tolist() == cache.seen
        for row, n in enumerate(cache.lengths):
            assert torch.equal(cache.positions[:, row, :, :n], wanted_cache.positions[:, row, :, :n])
        for name in ("step_rows", "step_slots", "step_positions"):
            assert torch.equal(getattr(cache, name), getattr(wanted_cache, name))
        if step == 3:
            plan = KeepPlan(torch.tensor([1]), torch.tensor([0, 2, 5, 9])[None, None, None])
            cache.compact(plan)
            wanted_cache.compact(plan)
    assert cache.kv[:, :, 2].isnan().all(), "a row that is not live was written"


@torch.inference_mode()
@pytest.mark.parametrize("family", [f for f in FAMILIES if f.refusal is None], ids=lambda family: family.label)
def test_other_families_step_in_static_shapes_as_through_their_own_forward(family):
    model = AutoModelForCausalLM.from_config(family.config()).eval()
    wanted_cache, cache = caches(model)
    cache.kv.nan_to_num_(0)
    wanted, decoder = ModuleDecoder(model), GraphDecoder(model)
    decoder.forward = ModuleDecoder(model)
    for step in range(5):
        tokens = torch.tensor([30 + step, 60 + step])
        found = []
        for d, c in ((wanted, wanted_cache), (decoder, cache)):
            with slot_attention(model, c):
                found.append(d.step(tokens, c))
        for e, f in zip(*found, strict=True):
            assert torch.allclose(e, f, atol=1e-4)
        assert (cache.lengths, cache.seen) == (wanted_cache.lengths, wanted_cache.seen)
        if step == 2:
            for c in (cache, wanted_cache):
                c.compact(KeepPlan(torch.tensor([1]), torch.tensor([0, 2, 5, 9])[None, None, None]))
    assert not cache.kv[:, :, 2].any(), "a row that is not live was written"


@torch.inference_mode()
def test_a_warm_up_changes_nothing(random_model):
    """Before a capture the step runs with no live row."""
    cache = caches(random_model)[1]
    decoder, counters = GraphDecoder(random_model), cache.counters
    counters.follow(cache.lengths, cache.seen)
    decoder._bind(cache)
    before = cache.kv.clone(), cache.positions.clone(), counters.seen.clone()
    counters.lengths.fill_(-1)
    logits, _, _ = decoder._body((3, cache.capacity), None)
    assert logits.isfinite().all()
    for old, new in zip(before, (cache.kv, cache.positions, counters.seen), strict=True):
        assert torch.equal(old.nan_to_num(5), new.nan_to_num(5))
    assert counters.lengths.tolist() == [-1] * 3


def test_batches_are_padded_to_a_ladder(random_model):
    decoder = GraphDecoder(random_model)
    for rows, ladder in ((1, [1]), (20, [20]), (32, [32]), (33, [32, 33]), (150, [32, 64, 128, 150])):
        cache = CompressedCache(random_model.config, rows, 4)
        decoder._bind(cache)
        assert decoder._ladder == ladder and decoder._spans == [4]


def test_a_long_cache_has_graphs_for_shorter_spans(random_model, monkeypatch):
    """Attention over more slots than are in use starts programs without work; the logits do not depend on it."""
    monkeypatch.setattr(graph_decoder, "FIRST_SPAN", 5)
    wanted_cache, cache = caches(random_model)
    wanted, decoder = FusedDecoder(random_model), GraphDecoder(random_model)
    sizes, body = [], decoder._body
    monkeypatch.setattr(decoder, "_body", lambda size, tail: sizes.append(size) or body(size, tail))
    cache.release(1)
    wanted_cache.release(1)
    for step in range(8):
        found, expected = (
            d.step(torch.tensor([40 + step]), c)[0] for d, c in ((decoder, cache), (wanted, wanted_cache))
        )
        assert torch.allclose(found, expected, atol=1e-4)
    assert decoder._spans == [5, 12] and sizes == [(3, 5), *[(3, 12)] * 7]


def _half_on_meta(module):
    if isinstance(module, torch.nn.Embedding):
        module.to("meta")


def test_errors_say_what_to_do(random_model):
    cache = caches(random_model, capacity=7)[0]
    decoder = make_decoder(random_model, "graph")
    with pytest.raises(KvreproError, match="given 1 rows, the cache holds 2"):
        decoder.step(torch.tensor([5]), cache)
    with pytest.raises(KvreproError, match="would need 8 slots, the cache has 7: evict"):
        decoder.step(torch.tensor([5, 6]), cache)
    with pytest.raises(KvreproError, match="capture=True needs a GPU; the model is on cpu"):
        GraphDecoder(random_model, capture=True)
    with pytest.raises(KvreproError, match="this one lies on cpu, meta; use decoder='auto'"):
        GraphDecoder(make_random_model("llama", tie_word_embeddings=False).apply(_half_on_meta))


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_tokens_are_read_late_and_in_order(delay):
    late, buffer, found = AsyncTokens(delay), torch.zeros(2, dtype=torch.int64), []
    for step in range(6):
        buffer.fill_(step)
        read = late.push([f"row {step}"], buffer)
        assert (read is None) == (step < delay)
        if read is not None:
            assert read == ([f"row {step - delay}"], [step - delay] * 2)
            found.append(read)
    assert found + late.drain() == [([f"row {step}"], [step] * 2) for step in range(6)]
    with pytest.raises(KvreproError, match="delay_steps=-1"):
        AsyncTokens(-1)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("operation not permitted when stream is capturing"), TypeError("a kernel that does not compile")],
    ids=["capture", "kernel"],
)
def test_a_capture_that_fails_falls_back_with_a_message(random_model, monkeypatch, error):
    graph_decoder.say_once.cache_clear()
    wanted, cache = caches(random_model)
    expected, _ = FusedDecoder(random_model).step(torch.tensor([30, 60]), wanted)
    decoder = GraphDecoder(random_model)
    # as on a GPU, whose capture breaks
    decoder.capture = True

    def broken(batch, tail):
        raise error

    monkeypatch.setattr(decoder, "_record", broken)
    with pytest.warns(RuntimeWarning, match=f"no CUDA graph could be captured .{type(error).__name__}: {error}"):
        logits, _ = decoder.step(torch.tensor([30, 60]), cache)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert decoder.capture is False


def test_a_rotation_that_reads_the_device_is_not_captured(monkeypatch):
    graph_decoder.say_once.cache_clear()
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = make_random_model("llama", rope_parameters=rope, max_position_embeddings=64)
    assert GraphDecoder(model, capture=False).capture is False
    # as on a GPU
    monkeypatch.setattr(type(model), "device", torch.device("cuda"))
    with pytest.warns(RuntimeWarning, match="rope_type='dynamic' reads the device at every step"):
        assert GraphDecoder(model).capture is False
