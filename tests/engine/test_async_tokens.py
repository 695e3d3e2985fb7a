"""What a GPU needs must not change a reply: tokens read late, prompts run in chunks, scores by kernels."""

from __future__ import annotations

import random
import warnings

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from kvrepro.cache.attention import slot_attention
from kvrepro.cache.prefill import prefill_prompt
from kvrepro.engine.decoders.choose import make_decoder
from kvrepro.engine.decoders.graph import GraphDecoder
from kvrepro.engine.decoders.module import ModuleDecoder
from kvrepro.engine.engine import Engine
from kvrepro.engine.observer import KeptPositions, Observer
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.errors import KvreproError
from kvrepro.methods.query_window import QueryWindowMethod
from kvrepro.models.tokens import ThinkTags

from ..method_cases import BUDGET, build, fair

PROMPTS = [(1, *random.Random(i).choices(range(20, 200), k=5 + 4 * i)) for i in range(5)]
# common enough among random logits that rows end early and at different steps
EOS = tuple(range(30, 33))
# no budget, no state, state per slot, remembered queries, attention of every step, an eviction at every step
METHODS = ("full", "window", "dynts", "rkv", "h2o", "tova")


def run(model, name, *, delay_steps, **settings):
    """Everything that a record holds, by problem, and the stats."""
    sizes = fair(name) if name != "full" else {}
    if name in ("window", "dynts"):
        # what is pinned depends on a token that was drawn shortly before
        sizes |= {"pin_answer": True, "pin_overflow": "keep_first"}
    method = build(name, BUDGET if sizes else None, **sizes)
    engine = Engine(
        model,
        method,
        ThinkTags((51,)),
        EOS,
        sampling=SamplingConfig(temperature=1.5, top_k=0, top_p=1.0),
        batch_rows=3,
        max_new_tokens=80,
        delay_steps=delay_steps,
        **{"observer": KeptPositions()} | settings,
    )
    done = engine.run(Request(str(i), s, p) for i, p in enumerate(PROMPTS) for s in range(2))
    found = {
        (c.request.problem_id, c.request.sample_id): (
            c.token_ids,
            c.status,
            c.n_thinking_tokens,
            c.evictions,
            c.peak_tokens,
            c.kept_positions,
        )
        for c in done
    }
    return found, engine.stats


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("decoder", ["fused", "graph"])
def test_replies_do_not_depend_on_when_tokens_are_read(random_model, name, decoder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        expected, stats = run(random_model, name, delay_steps=0, decoder=decoder)
        assert {"ok"} < {status for _, status, *_ in expected.values()}
        assert name == "full" or sum(row[3] for row in expected.values()) > 5, "rows must evict"
        assert len({len(tokens) for tokens, *_ in expected.values()}) > 3, "rows must end at different steps"
        for delay in (3, 30):
            found, late = run(random_model, name, delay_steps=delay, decoder=decoder)
            assert found == expected
            # what was drawn in vain is not counted as decoded
            assert (late.decoded_tokens, late.evictions) == (stats.decoded_tokens, stats.evictions)
            assert late.steps >= stats.steps


def test_late_reading_really_steps_on(random_model):
    steps = [run(random_model, "full", delay_steps=delay)[1].steps for delay in (0, 8)]
    assert steps[1] > steps[0]


def test_forced_replies_end_with_their_last_token_at_any_delay(random_model):
    forced = [tuple(random.Random(i).choices(range(20, 200), k=3 + 7 * i)) for i in range(4)]
    for delay in (0, 4):
        engine = Engine(
            random_model,
            build("random", BUDGET, **fair("random")),
            ThinkTags(()),
            EOS,
            sampling=SamplingConfig(),
            batch_rows=2,
            max_new_tokens=24,
            delay_steps=delay,
        )
        done = {
            c.request.problem_id: c for c in engine.run(Request(str(i), 0, PROMPTS[0], f) for i, f in enumerate(forced))
        }
        assert [tuple(done[str(i)].token_ids) for i in range(4)] == forced
        assert {c.status for c in done.values()} == {"ok"}


def test_an_observer_of_logits_sees_every_token_at_once(random_model):
    class Lengths(Observer):
        def __init__(self):
            self.found = []

        def logits(self, rows, logits):
            self.found += [(row.completion.request, len(row.completion.token_ids)) for row in rows]

    observer = Lengths()
    _, stats = run(random_model, "window", delay_steps=5, observer=observer)
    # once with the prompt, once a step
    assert stats.decoded_tokens == len(observer.found) - 2 * len(PROMPTS)
    assert len(set(observer.found)) == len(observer.found)


@pytest.mark.parametrize("chunk", [1, 3, 7, 64])
def test_a_prompt_in_chunks_is_the_prompt(random_model, chunk):
    prompt = PROMPTS[4]
    with torch.no_grad(), slot_attention(random_model):
        whole = prefill_prompt(random_model, prompt, 5, True, chunk=len(prompt))
        found = prefill_prompt(random_model, prompt, 5, True, chunk=chunk)
    assert whole.queries.shape[2] == 5 and whole.mass.sum() > 1
    for name in ("keys", "values", "logits", "queries", "mass"):
        assert torch.allclose(getattr(found, name), getattr(whole, name), atol=2e-5), name
    assert torch.equal(found.token_ids, torch.tensor(prompt))


def test_replies_do_not_depend_on_the_chunk(random_model, monkeypatch):
    expected, _ = run(random_model, "rkv", delay_steps=0)
    monkeypatch.setattr("kvrepro.engine.engine.PREFILL_CHUNK", 4)
    assert run(random_model, "rkv", delay_steps=0)[0] == expected


@pytest.mark.parametrize("name", ["snapkv", "rkv", "rkv_dynts"])
def test_the_kernels_path_of_a_score_evicts_the_same_slots(random_model, name, monkeypatch):
    """On a GPU the scoring kernels run; their wrappers' torch twins stand for them here."""
    expected, _ = run(random_model, name, delay_steps=0)
    assert any(evictions for _, _, _, evictions, *_ in expected.values())
    used = []
    from kvrepro.methods import query_window, rkv

    for module, wrapper in ((query_window, "window_scores_kernel"), (rkv, "key_redundancy_kernel")):
        inner = getattr(module, wrapper)
        monkeypatch.setattr(module, wrapper, lambda *a, f=inner, w=wrapper, **k: used.append(w) or f(*a, **k))
    monkeypatch.setattr(QueryWindowMethod, "impl", "reference")
    assert run(random_model, name, delay_steps=0)[0] == expected
    # what the kernels do not offer stays with torch: a causal softmax over all slots
    wanted = {
        "snapkv": {"window_scores_kernel"},
        "rkv": {"window_scores_kernel", "key_redundancy_kernel"},
        "rkv_dynts": {"key_redundancy_kernel"},
    }
    assert set(used) == wanted[name]


def test_settings_that_cannot_work_are_refused(random_model):
    sizes = dict(sampling=SamplingConfig(), batch_rows=1, max_new_tokens=1)
    with pytest.raises(KvreproError, match="delay_steps=-1"):
        Engine(random_model, build("full", None), ThinkTags(()), (), delay_steps=-1, **sizes)
    with pytest.raises(KvreproError, match="request p/3: forced_ids is empty"):
        Request("p", 3, (1,), ())


def test_decoders_by_name(random_model):
    assert isinstance(make_decoder(random_model, "module"), ModuleDecoder)
    assert isinstance(make_decoder(random_model, "graph"), GraphDecoder)
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=16))
    assert isinstance(make_decoder(other), ModuleDecoder)
    for kind in ("fused", "native"):
        with pytest.raises(KvreproError, match=f"'{kind}' serves.*not this GPT2LMHeadModel.*use decoder='auto'"):
            make_decoder(other, kind)
    with pytest.raises(KvreproError, match="decoder='fastest': known are auto, native, fused, graph, module"):
        make_decoder(other, "fastest")
