"""The compressed cache against an oracle that hides exactly the evicted positions (docs/methods.md#invariants)."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, MistralConfig

from kvrepro.cache.attention import slot_attention
from kvrepro.cache.shape import CacheShape
from kvrepro.cache.slots import CompressedCache, KeepPlan
from kvrepro.errors import KvreproError

from ..oracle import oracle_logits


def prefill(model, cache: CompressedCache, prompt: list[int]) -> None:
    """Admit a prompt the way the engine does."""
    past = DynamicCache()
    with torch.inference_mode():
        model(input_ids=torch.tensor([prompt]), past_key_values=past, use_cache=True)
    cache.admit(torch.stack([x.keys[0] for x in past.layers]), torch.stack([x.values[0] for x in past.layers]))


@torch.inference_mode()
def step(model, cache: CompressedCache, tokens: list[int]) -> torch.Tensor:
    """One decode step of all rows; `[B, V]`."""
    with slot_attention(model, cache):
        out = model(
            input_ids=torch.tensor(tokens)[:, None],
            position_ids=cache.next_positions(),
            past_key_values=cache,
            use_cache=True,
            slots=cache,
        )
    return out.logits[:, -1]


def random_plan(cache: CompressedCache, rows: list[int], kept: int, generator: torch.Generator) -> KeepPlan:
    """Random slots of rows of equal length, at the cache's granularity, newest slot always kept."""
    layers, _, heads, _ = cache.positions.shape
    length = cache.lengths[rows[0]]
    scores = torch.rand(layers, len(rows), heads, length, generator=generator)
    scores[..., -1] = 2
    return KeepPlan(torch.tensor(rows), scores.topk(kept).indices.sort().values)


@pytest.mark.parametrize("granularity", ["shared", "layer", "head"])
def test_logits_equal_a_full_run_that_hides_the_evicted_positions(random_model, granularity):
    rng, generator = random.Random(1), torch.Generator().manual_seed(1)
    config = random_model.config
    sequences = [[rng.randrange(3, 230) for _ in range(n)] for n in (34, 41, 38)]
    prompts = [6, 13, 10]
    cache = CompressedCache(config, 3, 16, granularity)
    hidden = [
        torch.zeros(config.num_hidden_layers, config.num_key_value_heads, len(s), len(s), dtype=torch.bool)
        for s in sequences
    ]
    for sequence, n in zip(sequences, prompts, strict=True):
        prefill(random_model, cache, sequence[:n])
    logits = []
    for t in range(28):
        if t:
            full = [r for r in range(3) if cache.lengths[r] == 16]
            for row in full:
                cache.compact(random_plan(cache, [row], 9, generator))
                kept = cache.positions[:, row, :, : cache.lengths[row]]
                now = prompts[row] + t
                for layer in range(config.num_hidden_layers):
                    for head in range(config.num_key_value_heads):
                        mine = kept[min(layer, kept.shape[0] - 1), min(head, kept.shape[1] - 1)].tolist()
                        gone = [p for p in range(now) if p not in mine]
                        hidden[row][layer, head, now:, gone] = True
        logits.append(step(random_model, cache, [s[n + t] for s, n in zip(sequences, prompts, strict=True)]))
    assert cache.seen == [n + 28 for n in prompts]
    for row, (sequence, n) in enumerate(zip(sequences, prompts, strict=True)):
        expected = oracle_logits(random_model, sequence, hidden[row])[n : n + 28]
        assert hidden[row].any(), "nothing was evicted, so nothing was tested"
        torch.testing.assert_close(torch.stack([x[row] for x in logits]), expected, atol=1e-5, rtol=1e-5)


def test_keys_keep_the_rotation_of_their_position(random_model):
    rng, generator = random.Random(2), torch.Generator().manual_seed(2)
    sequence = [rng.randrange(3, 230) for _ in range(30)]
    cache = CompressedCache(random_model.config, 1, 12, "shared")
    prefill(random_model, cache, sequence[:8])
    for token in sequence[8:]:
        if cache.lengths[0] == 12:
            cache.compact(random_plan(cache, [0], 7, generator))
        step(random_model, cache, [token])
    full = DynamicCache()
    with torch.inference_mode():
        random_model(input_ids=torch.tensor([sequence]), past_key_values=full, use_cache=True)
    positions = cache.positions[0, 0, 0, : cache.lengths[0]]
    assert positions.tolist() == sorted(set(positions.tolist()))
    # keys of the first layer depend on token and position alone, so eviction cannot have changed them
    torch.testing.assert_close(cache.kv[0, 0, 0, :, : cache.lengths[0]], full.layers[0].keys[0][:, positions])


def test_state_and_positions_follow_their_slot(random_model):
    generator = torch.Generator().manual_seed(3)
    cache = CompressedCache(random_model.config, 2, 10, "head")
    tag = cache.add_slot_state("tag", layers=2, heads=2)
    rows = cache.add_row_state("row", 1)
    shape = (2, 2, 9, 8)
    for name in range(2):
        base = torch.arange(9, dtype=torch.float32)[None, None, :, None].expand(shape) + 100 * name
        cache.admit(base, base)
        tag[:, name, :, :9] = torch.arange(9).float() + 100 * name
        rows[name] = name
    cache.compact(random_plan(cache, [1], 5, generator))
    # key, value, position and state of a slot all carry the same number
    for layer in range(2):
        for head in range(2):
            positions = cache.positions[layer, 1, head, :5].float() + 100
            assert torch.equal(cache.kv[0, layer, 1, head, :5, 0], positions)
            assert torch.equal(cache.kv[1, layer, 1, head, :5, 3], positions)
            assert torch.equal(tag[layer, 1, head, :5], positions)
    assert cache.release(0) == 1
    assert cache.lengths == [5]
    assert cache.seen == [9]
    assert rows[0] == 1
    assert torch.equal(cache.kv[0, 0, 0, 0, :5, 0], cache.positions[0, 0, 0, :5].float() + 100)


def test_unused_slots_never_reach_the_result(random_model):
    clean, poisoned = (CompressedCache(random_model.config, 2, 20) for _ in range(2))
    poisoned.kv.fill_(float("nan"))
    for cache in (clean, poisoned):
        prefill(random_model, cache, [5, 6, 7])
        prefill(random_model, cache, [8, 9, 10, 11, 12])
    assert torch.equal(step(random_model, clean, [20, 21]), step(random_model, poisoned, [20, 21]))


def test_bytes_are_those_of_the_storage(random_model):
    cache = CompressedCache(random_model.config, 3, 11)
    assert cache.bytes_per_slot == 2 * 2 * 2 * 8 * 4  # K and V, layers, kv heads, head size, fp32
    assert cache.kv_bytes == cache.kv.untyped_storage().nbytes() == 3 * 11 * cache.bytes_per_slot


def test_a_plain_transformers_call_works_while_rows_agree(random_model):
    prompt = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    cache, plain = CompressedCache(random_model.config, 2, 12), DynamicCache()
    with torch.inference_mode():
        for ids in (prompt, torch.tensor([[13], [14]]), torch.tensor([[15], [16]])):
            ours = random_model(input_ids=ids, past_key_values=cache, use_cache=True).logits
            theirs = random_model(input_ids=ids, past_key_values=plain, use_cache=True).logits
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    # after an eviction the next position is still the number of tokens seen
    cache.compact(KeepPlan(torch.tensor([0, 1]), torch.tensor([[[[0, 2, 5]], [[1, 3, 5]]]])))
    assert cache.get_seq_length() == 6
    assert cache.lengths == [3, 3]
    assert cache.next_positions().tolist() == [[6], [6]]


def test_rows_of_different_length_need_slot_attention(random_model):
    cache = CompressedCache(random_model.config, 2, 12)
    prefill(random_model, cache, [5, 6, 7])
    prefill(random_model, cache, [5, 6, 7, 8])
    with pytest.raises(KvreproError, match="rows differ in .*slot_attention"):
        random_model(input_ids=torch.tensor([[9], [9]]), past_key_values=cache, use_cache=True)


def test_a_full_row_refuses_another_token_and_a_full_cache_another_row(random_model):
    cache = CompressedCache(random_model.config, 1, 3)
    prefill(random_model, cache, [5, 6, 7])
    with pytest.raises(KvreproError, match="would need 4 slots, the cache has 3"):
        step(random_model, cache, [8])
    with pytest.raises(KvreproError, match="all 1 rows are in use"):
        prefill(random_model, cache, [5])
    with pytest.raises(KvreproError, match="row 4 is not live"):
        cache.release(4)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (MistralConfig(sliding_window=128), "sliding window of 128"),
        (LlamaConfig(is_encoder_decoder=True), "cross attention"),
    ],
)
def test_unsupported_attention_is_refused(config, what):
    with pytest.raises(KvreproError, match=what):
        CacheShape.of(config)
    assert CacheShape.of(MistralConfig(sliding_window=None)).kv_heads == 8


@pytest.mark.parametrize("method", ["window", "rkv", "h2o", "lazy_eviction", "raas"])
def test_a_cache_that_nobody_holds_is_gone_at_once(random_model, method):
    """Caches are most of a GPU's memory; one in a reference cycle stays until Python's collector comes by."""
    import gc
    import weakref

    from kvrepro.methods.table import create_method

    gc.collect()
    gc.disable()
    try:
        cache = CompressedCache(random_model.config, 2, 48)
        create_method(method, 40, window=8, evict_every=6, protocol="fair").prepare(cache)
        held = weakref.ref(cache)
        del cache
        assert held() is None
    finally:
        gc.enable()


def test_beam_search_and_crops_outside_of_a_block_are_refused(random_model):
    prompt = torch.tensor([[5, 6, 7, 8]])
    cache = CompressedCache(random_model.config, 2, 40)
    with pytest.raises(KvreproError, match=r"cannot exchange its rows \(beam search\)"):
        random_model.generate(prompt, past_key_values=cache, num_beams=2, max_new_tokens=8)
    for what in (
        lambda: cache.crop(-1),
        lambda: cache.batch_repeat_interleave(2),
        lambda: cache.batch_select_indices(torch.tensor([0])),
    ):
        with pytest.raises(KvreproError, match="a compressed cache cannot"):
            what()


def test_outside_of_slot_attention_a_cache_that_has_evicted_is_refused(random_model):
    cache = CompressedCache(random_model.config, 1, 12)
    random_model(torch.tensor([[5, 6, 7, 8]]), past_key_values=cache)
    cache.compact(KeepPlan(torch.tensor([0]), torch.tensor([[[[0, 2, 3]]]])))
    with pytest.raises(KvreproError, match="its position, and a mask would hide the wrong ones"):
        random_model(torch.tensor([[9]]), past_key_values=cache)
    assert step(random_model, cache, [9]).isfinite().all()
    assert (cache.lengths, cache.seen) == ([4], [5])


def test_slot_attention_refuses_a_mask_that_hides_something(random_model):
    ids = torch.tensor([[0, 5, 6, 7]])
    with slot_attention(random_model), torch.inference_mode():
        plain = random_model(ids).logits
        assert torch.equal(random_model(ids, attention_mask=torch.ones(1, 4, dtype=torch.int64)).logits, plain)
        with pytest.raises(KvreproError, match="slot attention knows no padding"):
            random_model(ids, attention_mask=torch.tensor([[0, 1, 1, 1]]))
