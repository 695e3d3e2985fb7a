"""The judge's features in training against those in the engine, its loss by loops, its training against chance."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

import kvrepro
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.engine.engine import Engine
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.errors import KvreproError
from kvrepro.methods.budgets import Schedule
from kvrepro.methods.foresight_kv import ForesightKVMethod
from kvrepro.methods.learned.judge import EvictionJudge, load_judge, save_judge
from kvrepro.methods.table import create_method
from kvrepro.models.tokens import ThinkTags
from kvrepro.training.judge.examples import eviction_examples
from kvrepro.training.judge.training import JudgeRecipe, drawn_examples, pairwise_hinge, train_judge
from kvrepro.training.traces import Trace

from ..method_cases import HEAD_DIM, KV_HEADS, LAYERS, Q_HEADS

SIZES = {"layers": LAYERS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "group": Q_HEADS // KV_HEADS}
PERIOD = 6


class OracleJudge:
    """Goes where a judge goes: keeps the features that it is shown and drops what the oracle would drop."""

    sizes = SIZES

    def __init__(self, examples):
        self.examples, self.seen = examples, []

    def to(self, device):
        return self

    def __call__(self, features, layers):
        example = self.examples[len(self.seen)] if len(self.seen) < len(self.examples) else None
        self.seen.append(features[:, 0])
        scores = torch.zeros(features.shape[:4])
        if example is not None:
            scores[:, 0, :, : example.future.shape[-1]] = -example.future
        return scores


def sequence_of(n_tokens: int, n_prompt: int) -> Trace:
    rng = random.Random(n_tokens + n_prompt)
    return Trace([1, *(rng.randrange(20, 200) for _ in range(n_tokens - 1))], n_prompt, n_tokens, n_tokens)


def forced_run(model, sequence, method):
    """Feed a known reply through the engine; nothing is drawn."""
    prompt, reply = sequence.token_ids[: sequence.thinking_from], sequence.token_ids[sequence.thinking_from :]
    engine = Engine(
        model,
        method,
        ThinkTags.of(build_tokenizer()),
        [2],
        sampling=SamplingConfig(),
        batch_rows=1,
        max_new_tokens=len(reply),
    )
    [completion] = engine.run([Request("0", 0, tuple(prompt), tuple(reply))])
    return completion


# a prompt of one token, one shorter than a block, one that blocks divide unevenly, one as long as the budget
@pytest.mark.parametrize("n_prompt", [1, 4, 9, 23, 24])
def test_features_in_training_equal_those_of_an_engine_run(random_model, n_prompt):
    sequence = sequence_of(60, n_prompt)
    examples = eviction_examples(random_model, sequence, 24, PERIOD)
    assert len(examples) == 5
    judge = OracleJudge(examples)
    method = create_method("foresight_kv", 24, window=PERIOD, evict_every=PERIOD, judge=judge, sample=False)
    completion = forced_run(random_model, sequence, method)
    assert completion.evictions == len(judge.seen) == 5
    for i, (example, seen) in enumerate(zip(examples, judge.seen, strict=True)):
        # an eviction changes the hidden states behind the first layer, so from then on only the first layer agrees
        layers = slice(None) if i == 0 else slice(0, 1)
        competing = example.future.shape[-1]
        torch.testing.assert_close(seen[layers, :, :competing], example.features[layers], atol=2e-5, rtol=1e-4)


def test_sums_cover_every_query_before_the_eviction(random_model):
    """Written out: the running sum of a slot is its column of the whole attention matrix."""
    sequence, end = sequence_of(40, 9), 30
    example = eviction_examples(random_model, sequence, 24, PERIOD)[0]
    attention = eager_attention(random_model, sequence.token_ids)
    found = example.features[..., 2 * HEAD_DIM :].unflatten(-1, (-1, 8))
    block = attention[:, :, :, end - PERIOD : end, :24]
    blocks = [(0, 9), (9, 12), (12, 18), (18, 24), (24, 30)]
    decayed = sum(0.9 ** (4 - i) * attention[:, :, :, a:b, :24].sum(3) for i, (a, b) in enumerate(blocks))
    whole = attention[:, :, :, :end, :24].sum(3)
    expected = [block.amax(3), block.amin(3), block.sum(3), *[block.sum(3)] * 3, whole, decayed]
    torch.testing.assert_close(found.transpose(2, 3), torch.stack(expected, -1), atol=1e-5, rtol=1e-4)
    ends = [(30, 36), (36, 40)]
    future = torch.stack([attention[:, :, :, a:b, :24].mean((2, 3)) for a, b in ends]).amax(0)
    torch.testing.assert_close(example.future, future, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("n_prompt", [48, 47, 30, 20])
def test_a_first_eviction_before_the_ring_is_full_looks_back_into_the_prompt(random_model, n_prompt):
    """DynTS' rule keeps 20 of 49 slots: 29 queries to a block, of which a long prompt leaves few to be decoded."""
    sequence, judge = sequence_of(50, n_prompt), OracleJudge([])
    method = ForesightKVMethod(schedule=Schedule(48, 8, ratio=0.3), judge=judge, sample=False)
    assert (method.schedule.period_steps, method.schedule.peak_tokens) == (29, 49)
    assert forced_run(random_model, sequence, method).evictions == 1
    attention = eager_attention(random_model, sequence.token_ids)[:, :, :, :49, :49]
    found = judge.seen[0][..., 2 * HEAD_DIM :].unflatten(-1, (-1, 8)).transpose(2, 3)
    torch.testing.assert_close(found[..., 2], attention[:, :, :, 20:].sum(3), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[..., 6], attention.sum(3), atol=1e-5, rtol=1e-4)


def eager_attention(model, token_ids):
    """`[L, H, G, n, n]` as transformers computes it."""
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([token_ids]), output_attentions=True)
    model.set_attn_implementation("sdpa")
    return torch.stack(out.attentions)[:, 0].unflatten(1, (KV_HEADS, -1))


def test_the_oracle_drops_what_comes_back_least(random_model):
    first, second = eviction_examples(random_model, sequence_of(44, 9), 24, PERIOD)[:2]
    for layer in range(LAYERS):
        for head in range(KV_HEADS):
            order = sorted(range(24), key=lambda slot: first.future[layer, head, slot].item())
            survivors = [p for p in range(24) if p not in order[:PERIOD]] + list(range(24, 30))
            assert second.positions[layer, head].tolist() == survivors


def test_examples_refuse_sizes_that_do_not_fit(random_model):
    with pytest.raises(KvreproError, match=r"budget=8, period=6: .* hold the prompt \(9 tokens\)"):
        eviction_examples(random_model, sequence_of(40, 9), 8, PERIOD)
    assert eviction_examples(random_model, sequence_of(30, 9), 24, PERIOD) == []


def test_hinge_equals_loops():
    torch.manual_seed(0)
    scores, future = torch.randn(2, 7), torch.rand(2, 7)
    future[0, 1] = future[0, 2]
    losses = [
        max(0.0, 0.01 + (scores[r, i] - scores[r, j]).item())
        for r in range(2)
        for i in range(7)
        for j in range(7)
        if future[r, i] > future[r, j]
    ]
    assert len(losses) == 2 * 21 - 1
    assert pairwise_hinge(scores, future, 0.01).item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    # in the right order by more than the margin, nothing is left to learn
    assert pairwise_hinge(-future * 1e4, future, 0.01) == 0


def test_training_beats_chance_leaves_the_model_alone_and_is_deterministic(random_model):
    train, held_out = [sequence_of(50 + i, 10) for i in range(8)], [sequence_of(70 + i, 10) for i in range(4)]
    recipe = JudgeRecipe(steps=20, batch_examples=2, periods=(5, 8))
    _, card = train_judge(random_model, train, held_out, recipe)
    accuracy, lost = card["held_out"]["pairwise_accuracy"], card["held_out"]["lost_share"]
    assert abs(accuracy["random"] - 0.5) < 0.03
    assert accuracy["judge"] > accuracy["random"] + 0.05
    assert lost["oracle"] <= min(lost.values())
    assert lost["judge"] < lost["random"]
    assert all(p.grad is None for p in random_model.parameters())
    twice = [train_judge(random_model, train, held_out[:1], replace(recipe, steps=3))[0] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(judge.parameters() for judge in twice), strict=True))
    with pytest.raises(KvreproError, match="none of 1 sequences is long enough"):
        train_judge(random_model, [sequence_of(12, 10)], held_out, recipe)


def test_drawn_budgets_hold_prompt_and_two_periods(random_model):
    rng, recipe = random.Random(0), JudgeRecipe(periods=(4, 9))
    for n_tokens in (30, 50, 70):
        for example in drawn_examples(random_model, sequence_of(n_tokens, 20), recipe, rng):
            assert example.features.shape[2] >= example.n_dropped


def test_judge_survives_its_file_and_a_wrong_one_is_refused(tmp_path, random_model):
    judge = EvictionJudge(**SIZES)
    save_judge(judge, tmp_path / "judge", {"note": 1})
    again = load_judge(tmp_path / "judge")
    assert all(torch.equal(a, b) for a, b in zip(judge.parameters(), again.parameters(), strict=True))
    assert sorted(p.name for p in (tmp_path / "judge").iterdir()) == ["card.json", "model.safetensors"]
    with pytest.raises(KvreproError, match="no eviction judge in .*`kvrepro train-judge MODEL`"):
        load_judge(tmp_path / "absent")
    (tmp_path / "judge" / "card.json").write_text('{"sizes": {"layers": 3}}')
    with pytest.raises(KvreproError, match="does not fit its card"):
        load_judge(tmp_path / "judge")
    other = EvictionJudge(**{**SIZES, "head_dim": 16})
    with pytest.raises(KvreproError, match="belongs to another model"):
        kvrepro.generate(random_model, build_tokenizer(), [[1, 30, 31]], "foresight_kv", 48, window=8, judge=other)


@pytest.mark.parametrize(("window", "evict_every"), [(8, 30), (8, 20), (0, 40)])
def test_the_draw_spares_pinned_slots_and_covers_small_caches(random_model, window, evict_every):
    """Twice the dropped slots may be more than compete; pinned slots must not use up the draw."""
    sequence = sequence_of(120, 12)
    method = create_method(
        "foresight_kv", 48, window=window, evict_every=evict_every, judge=EvictionJudge(**SIZES), pin_question=True
    )
    completion = forced_run(random_model, sequence, method)
    assert completion.evictions == (120 - 48) // evict_every


def test_the_draw_takes_only_from_twice_the_highest(random_model):
    from tests.methods.test_methods import make_view

    view = make_view(random_model.config, 40, 5, granularity="head", rows=1)
    torch.manual_seed(0)
    view.cache.kv.normal_()
    method = create_method("foresight_kv", 32, window=8, evict_every=8, pin_question=True, judge=EvictionJudge(**SIZES))
    method.prepare(view.cache)
    certain = create_method(
        "foresight_kv", 32, window=8, evict_every=8, pin_question=True, judge=method.judge, sample=False
    )
    scores = -certain.score(view)[:, 0, :, 5:32]
    kept, seen = set(), set()
    for noise in range(30):
        view.noise_keys[:] = noise
        # an eviction carries the sums on: start from the same ones each time
        method.prepare(view.cache)
        [plan], _ = method.plans(view)
        gone = set(range(40)) - set(plan.slots[0, 0, 0].tolist())
        assert len(gone) == 8
        seen |= gone
        kept |= {frozenset(gone)}
    allowed = {5 + i for i in scores[0, 0].topk(16).indices.tolist()}
    assert seen <= allowed
    assert len(seen) > 8 and len(kept) > 1
