"""The decode loop: equal to transformers without eviction, independent of batch, order and neighbours with it."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

import kvrepro
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.engine.requests import LENGTH_LIMIT, OK, TRUNCATED
from kvrepro.errors import KvreproError
from kvrepro.methods.learned.importance import ImportancePredictor, PredictorShape, save_predictor

from ..method_cases import BUDGET, COMPRESSED, fair

PROMPTS = [[1, *random.Random(i).choices(range(20, 200), k=5 + 9 * i)] for i in range(4)]
NEW_TOKENS = 52
SIZES = {"budget": BUDGET, "window": 8, "evict_every": 6, "protocol": "fair"}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def run(model, tokenizer, method="full", budget=None, **kwargs):
    sizes = fair(method) if budget else {}
    return kvrepro.generate(
        model, tokenizer, PROMPTS, method, budget, **{"max_new_tokens": NEW_TOKENS, **sizes, **kwargs}
    )


def tokens(completions) -> list[list[int]]:
    return [c.token_ids for c in completions]


@pytest.fixture(scope="module")
def greedy(random_model):
    """Plain transformers, one prompt at a time."""
    replies = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        out = random_model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS, top_k=None, top_p=None
        )
        replies.append(out[0, len(prompt) :].tolist())
    return replies


def test_full_cache_equals_transformers_greedy(random_model, tokenizer, greedy):
    assert tokens(run(random_model, tokenizer, temperature=0, batch_rows=3)) == greedy


@pytest.mark.parametrize("method", COMPRESSED)
def test_a_budget_that_is_never_reached_equals_transformers_greedy(random_model, tokenizer, greedy, method):
    engine = []
    found = run(random_model, tokenizer, method, 200, temperature=0, batch_rows=2, engine=engine)
    assert tokens(found) == greedy
    assert engine[0].stats.evictions == 0


@pytest.mark.parametrize("method", COMPRESSED)
def test_keeping_every_candidate_equals_the_full_cache(random_model, tokenizer, method):
    # ratio 1 keeps budget + 1 slots, so a row can go on only for as long as nothing has to leave
    full = run(random_model, tokenizer, max_new_tokens=12, batch_rows=5)
    found = run(random_model, tokenizer, method, 60, max_new_tokens=12, batch_rows=5)
    assert tokens(found) == tokens(full)


@pytest.mark.parametrize("method", COMPRESSED)
def test_replies_do_not_depend_on_batch_order_or_neighbours(random_model, tokenizer, method):
    together = run(random_model, tokenizer, method, BUDGET, batch_rows=5)
    assert any(c.evictions for c in together)
    # two rows at a time: rows enter and leave beside others of every age
    assert tokens(run(random_model, tokenizer, method, BUDGET, batch_rows=2)) == tokens(together)


@pytest.mark.parametrize("method", COMPRESSED)
def test_budget_holds_and_kept_sets_shrink_in_order(random_model, tokenizer, method):
    engine = []
    found = run(random_model, tokenizer, method, BUDGET, batch_rows=3, keep_positions=True, engine=engine)
    schedule, stats = engine[0].method.schedule, engine[0].stats
    assert stats.kv_tokens_peak == max(c.peak_tokens for c in found) == schedule.budget + schedule.evict_every
    assert stats.kv_bytes == stats.batch_rows * stats.capacity_tokens * stats.bytes_per_slot
    assert stats.evictions == sum(c.evictions for c in found) > 0
    for completion in found:
        n_prompt, before = len(completion.request.prompt_ids), set()
        now = schedule.budget + schedule.evict_every
        for kept in completion.kept_positions:
            assert len(kept) == schedule.kept_tokens
            assert kept == sorted(set(kept)), "positions must be ascending and distinct"
            newest = kept[-1]
            assert set(range(newest - schedule.window + 1, newest + 1)) <= set(kept), "the window must stay"
            # nothing that was evicted comes back
            assert not before or set(kept) <= before | set(range(max(before) + 1, newest + 1))
            if engine[0].method.pin_question:
                assert set(range(n_prompt)) <= set(kept)
            assert newest == now - 1
            before, now = set(kept), now + schedule.period_steps


def test_slots_shrink_while_positions_go_on(random_model, tokenizer):
    from kvrepro.engine.engine import Engine
    from kvrepro.engine.observer import Observer
    from kvrepro.engine.requests import Request, SamplingConfig
    from kvrepro.methods.table import create_method
    from kvrepro.models.tokens import ThinkTags

    class Steps(Observer):
        """Per problem and step: tokens seen and slots in use before an eviction, evictions so far."""

        def __init__(self):
            self.rows, self.state = {}, None

        def logits(self, rows, logits):
            cache = self.state.cache
            # a row that enters comes alone and is the cache's last one
            counts = list(zip(cache.seen, cache.lengths, strict=True))[-len(rows) :]
            for row, (seen, slots) in zip(rows, counts, strict=True):
                found = self.rows.setdefault(row.completion.request.problem_id, [])
                found.append((seen, slots, row.completion.evictions))

    steps, method = Steps(), create_method("random", **SIZES)
    engine = Engine(
        random_model,
        method,
        ThinkTags.of(tokenizer),
        (),
        sampling=SamplingConfig(),
        batch_rows=2,
        max_new_tokens=60,
        observer=steps,
    )
    opened = engine.open
    engine.open = lambda *sizes: setattr(steps, "state", opened(*sizes)) or steps.state
    done = {c.request.problem_id: c for c in engine.run(Request(str(i), 0, tuple(p)) for i, p in enumerate(PROMPTS))}
    for problem_id, completion in done.items():
        rows = steps.rows[problem_id]
        n_prompt = len(completion.request.prompt_ids)
        assert [seen for seen, *_ in rows] == list(range(n_prompt, n_prompt + 60))
        assert rows[-1][-1] == completion.evictions > 0
        drops = [b for a, b in itertools.pairwise(rows) if b[1] < a[1]]
        assert len(drops) == completion.evictions
        assert all(slots == method.schedule.kept_tokens + 1 for _, slots, _ in drops)


@pytest.mark.parametrize("method", ["full", "random"])
def test_the_fused_step_draws_the_same_tokens_as_the_model(random_model, tokenizer, method):
    from kvrepro.engine.decoders.fused import FusedDecoder
    from kvrepro.engine.decoders.module import ModuleDecoder
    from kvrepro.engine.engine import Engine
    from kvrepro.engine.requests import Request, SamplingConfig
    from kvrepro.methods.table import create_method
    from kvrepro.models.tokens import ThinkTags

    found = {}
    for decoder, cls in (("fused", FusedDecoder), ("module", ModuleDecoder)):
        chosen = create_method(method, **({} if method == "full" else SIZES))
        engine = Engine(
            random_model,
            chosen,
            ThinkTags.of(tokenizer),
            (),
            sampling=SamplingConfig(),
            batch_rows=3,
            max_new_tokens=50,
            decoder=decoder,
        )
        assert isinstance(engine.decoder, cls)
        requests = [Request(str(i), 0, tuple(p)) for i, p in enumerate(PROMPTS)]
        found[decoder] = {c.request.problem_id: c.token_ids for c in engine.run(requests)}
    assert found["fused"] == found["module"]


def test_eviction_noise_does_not_move_sampling(random_model, tokenizer):
    full = run(random_model, tokenizer)
    compressed = run(random_model, tokenizer, "random", BUDGET, keep_positions=True)
    for a, b in zip(full, compressed, strict=True):
        before = SIZES["budget"] - len(a.request.prompt_ids) + 1
        assert a.token_ids[:before] == b.token_ids[:before]
    assert tokens(full) != tokens(compressed)


def test_same_seed_same_reply_and_another_seed_another(random_model, tokenizer):
    first = run(random_model, tokenizer, "random", BUDGET, seed=7)
    assert tokens(first) == tokens(run(random_model, tokenizer, "random", BUDGET, seed=7))
    assert tokens(first) != tokens(run(random_model, tokenizer, "random", BUDGET, seed=8))


def test_samples_of_a_problem_differ_and_an_engine_can_run_twice(random_model, tokenizer):
    engine = []
    found = kvrepro.generate(
        random_model, tokenizer, PROMPTS[:1], "random", **SIZES, n_samples=4, max_new_tokens=40, engine=engine
    )
    assert len({tuple(c.token_ids) for c in found}) > 1
    again = list(engine[0].run([c.request for c in found]))
    assert {tuple(c.token_ids) for c in again} == {tuple(c.token_ids) for c in found}


def test_status_and_roles(random_model, tokenizer):
    found = kvrepro.generate(random_model, tokenizer, PROMPTS, n_samples=8, max_new_tokens=50, temperature=1.0, top_k=0)
    assert {c.status for c in found} >= {OK, TRUNCATED}
    end = tokenizer.convert_tokens_to_ids("</think>")
    for c in found:
        assert (c.token_ids[-1] == 2) == (c.status == OK)
        if end in c.token_ids:
            assert c.n_thinking_tokens == c.token_ids.index(end) + 1
            assert c.status in (OK, LENGTH_LIMIT)
        else:
            assert c.n_thinking_tokens == len(c.token_ids)
            assert c.n_answer_tokens == 0


def test_nothing_is_left_behind_in_the_caller(random_model, tokenizer):
    before = random_model.config._attn_implementation
    run(random_model, tokenizer, "random", BUDGET)
    assert random_model.config._attn_implementation == before
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "nope", "budget": 50}, "unknown method 'nope'; known: .*dynts"),
        ({"method": "random"}, "needs a budget"),
        ({"method": "full", "budget": 9}, "budget=9 would mean nothing"),
        ({"method": "random", "budget": 20, "window": 4}, "prompt has 33 tokens, more than budget=20"),
        ({"method": "random", "budget": 40, "window": 20, "ratio": 0.5}, "33 pinned tokens do not fit: .* so 10 can"),
        ({"method": "window", "budget": 40, "wndow": 3}, "unknown option of method window 'wndow'"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": -1.0}, "temperature=-1.0"),
    ],
)
def test_bad_requests_name_the_numbers(random_model, tokenizer, arguments, message):
    with pytest.raises(KvreproError, match=message):
        kvrepro.generate(random_model, tokenizer, PROMPTS, **arguments)


def test_dynts_without_a_head_says_how_to_train_one(random_model, tokenizer, tmp_path, monkeypatch):
    # the folder of some other head where the program was started is not the model's own
    save_predictor(
        ImportancePredictor(PredictorShape(random_model.config.hidden_size, 16, 8)), tmp_path / "importance", {}
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KvreproError, match="without a folder has no importance predictor: .*`kvrepro train MODEL`"):
        kvrepro.generate(random_model, tokenizer, PROMPTS, "dynts", 48)


def test_pins_that_do_not_fit_can_be_cut_by_rule(random_model, tokenizer):
    engine = []
    found = kvrepro.generate(
        random_model,
        tokenizer,
        PROMPTS,
        "random",
        budget=40,
        window=20,
        ratio=0.5,
        pin_overflow="keep_first",
        max_new_tokens=30,
        keep_positions=True,
        engine=engine,
    )
    longest = found[-1]
    assert longest.kept_positions[0][:10] == list(range(10)), "the question's first tokens stay"
    overflow = {len(c.request.prompt_ids): c.pin_overflow_tokens for c in found}
    assert overflow[max(overflow)] > 0 and overflow[min(overflow)] == 0, "a row counts its own"
    assert engine[0].stats.pin_overflow_tokens == sum(c.pin_overflow_tokens for c in found)


@pytest.mark.parametrize("method", ["dynts", "rkv", "random"])
def test_rows_that_evict_together_may_be_split(random_model, tokenizer, method, monkeypatch):
    """Groups are cut where the slots of all their rows would be too many to compare at once."""
    from kvrepro.engine import batch
    from kvrepro.engine.engine import Engine

    sizes = []
    together = Engine.evict

    def counted(self, state, indices, length):
        sizes.append(len(indices))
        together(self, state, indices, length)

    monkeypatch.setattr(Engine, "evict", counted)
    found = {}
    for most, largest in ((2**16, range(3, 6)), (2 * 54, [2]), (1, [1])):
        sizes.clear()
        monkeypatch.setattr(batch, "GROUP_SLOTS", most)
        settings = fair(method) | {"max_new_tokens": 60}
        found[most] = tokens(kvrepro.generate(random_model, tokenizer, [PROMPTS[1]] * 5, method, BUDGET, **settings))
        assert max(sizes) in largest
    assert found[1] == found[2 * 54] == found[2**16]
