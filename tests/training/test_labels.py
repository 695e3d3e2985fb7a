"""Labels against a naive computation, per head and in blocks; what they hold of memory; unusable traces are named."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
import torch

from kvrepro.cache import probes
from kvrepro.cache.probes import AnswerAttention
from kvrepro.training.labelling import Workers, cached_places, unsound
from kvrepro.training.trace_attention import label_sequence
from kvrepro.training.traces import Trace


def naive(model, tokens, answer_from):
    """Mean over answer rows of eager attention with the diagonal zeroed, `[L, Hq, n]`, and last hidden states."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([tokens]), output_attentions=True, output_hidden_states=True)
    model.set_attn_implementation("sdpa")
    attention = torch.stack(out.attentions)[:, 0] * (1 - torch.eye(len(tokens)))
    return attention[:, :, answer_from:].mean(dim=2), out.hidden_states[-1][0]


@pytest.mark.parametrize(("n", "answer_from"), [(30, 18), (150, 60), (12, 11)])
@pytest.mark.parametrize("block_bytes", [probes.BLOCK_BYTES, 20_000])
def test_labels_equal_a_naive_eager_computation(random_model, n, answer_from, block_bytes, monkeypatch):
    monkeypatch.setattr(probes, "BLOCK_BYTES", block_bytes)
    tokens = [random.Random(n).randrange(3, 230) for _ in range(n)]
    found = label_sequence(random_model, tokens, answer_from, keep_heads=True)
    by_head, hidden = naive(random_model, tokens, answer_from)
    torch.testing.assert_close(found.head_labels, by_head, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.labels, by_head.mean(dim=(0, 1)), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.hidden, hidden, atol=1e-5, rtol=1e-5)
    assert found.labels.sum() <= 1
    assert label_sequence(random_model, tokens, answer_from).head_labels is None
    assert random_model.config._attn_implementation == "sdpa"


def test_a_trace_without_answer_has_no_labels(random_model):
    with pytest.raises(ValueError, match="no answer to label from"):
        label_sequence(random_model, [5, 6, 7], 3)


def test_labelling_makes_no_logits_but_the_last(random_model):
    rows = []
    hook = random_model.get_output_embeddings().register_forward_hook(lambda m, args, out: rows.append(out.shape[1]))
    label_sequence(random_model, list(range(3, 40)), 20)
    hook.remove()
    assert rows == [1]


@pytest.mark.slow
def test_extra_memory_at_16384_tokens_of_the_r1_llama_shape_stays_below_a_gigabyte():
    # three blocks of answer rows: further blocks reuse the same memory; the module's default measures 1,000 tokens
    command = [sys.executable, "-m", "kvrepro.bench.label_memory", "--answer-tokens", "144"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    rows_per_block = probes.BLOCK_BYTES // (4 * 32 * 16384)
    assert 3 * rows_per_block <= 144
    # a measurement that misses the one block that must exist would prove nothing
    assert 0.9 * probes.BLOCK_BYTES < found["extra_bytes"] < 10**9
    assert found["full_matrix_bytes"] > 30 * 10**9
    assert found["label_sum"] == pytest.approx(1, abs=1e-3)


def test_groups_of_query_heads_meet_their_own_key_head():
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 6, 8), torch.randn(1, 2, 6, 8)
    attention = AnswerAttention(5, keep_heads=True)
    attention.observe(0, query, key, 1.0)
    for head in range(4):
        weights = (key[0, head // 2] @ query[0, head, 5]).softmax(-1)
        torch.testing.assert_close(attention.head_labels[0, head, :5], weights[:5])
        assert attention.head_labels[0, head, 5] == 0


def trace(**changes):
    values = dict(token_ids=list(range(3, 23)), thinking_from=4, thinking_to=10, answer_from=11)
    return Trace(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        (dict(answer_from=20), "unsound_parts"),
        (dict(thinking_to=4), "unsound_parts"),
        (dict(thinking_from=0), "unsound_parts"),
        (dict(token_ids=[*range(3, 22), 999]), "other_tokenizer"),
        (dict(thinking_to=9, answer_from=10), "other_tokenizer"),
    ],
)
def test_unusable_traces_are_named(changes, reason):
    assert unsound(trace(**changes), think_end=(13,), vocabulary=230) == reason


def test_thinning_keeps_both_ends_of_the_thought():
    long = trace(token_ids=list(range(3, 103)), thinking_from=10, thinking_to=90, answer_from=91)
    assert cached_places(long, None).tolist() == list(range(10, 90))
    places = cached_places(long, 9).tolist()
    assert (places[0], places[-1], len(set(places))) == (10, 89, 9)


def test_workers_share_the_traces_without_gap_or_overlap():
    seen = [i for rank in range(3) for i in range(Workers(rank, 3).rank, 10, 3)]
    assert sorted(seen) == list(range(10))
    assert Workers().is_main
    assert not Workers(1, 3).is_main
