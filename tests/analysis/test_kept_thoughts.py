"""Answers from a part of the thought, against a model run that hides the rest; and the frames drawn from them."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from kvrepro.analysis.kept_thoughts import _admit, accuracy_by_part, answers_from_parts, choose_tokens
from kvrepro.analysis.observations import sorted_share_curve
from kvrepro.analysis.predictor_effect import untrained_head
from kvrepro.bench.head_cost import break_even, break_even_length, saved_slots, step_costs
from kvrepro.cache.attention import slot_attention
from kvrepro.cache.slots import CompressedCache
from kvrepro.engine.decoders.choose import make_decoder
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.methods.learned.importance import ImportancePredictor, PredictorShape
from kvrepro.models.loading import load_model
from kvrepro.models.table import model_entry
from kvrepro.models.tokens import render_prompt
from kvrepro.training.dataset import Example
from kvrepro.training.traces import Trace

from ..oracle import oracle_logits

SCORES = torch.tensor([3.0, 1.0, 2.0, 2.0, 5.0])


def test_choices_by_hand():
    assert choose_tokens(SCORES, 0.4, "top").tolist() == [0, 4]
    assert choose_tokens(SCORES, 0.6, "top").tolist() == [0, 2, 4]
    assert choose_tokens(SCORES, 0.4, "bottom").tolist() == [1, 2]
    assert choose_tokens(SCORES, 0, "top").tolist() == []
    for selection in ("top", "random", "bottom"):
        assert choose_tokens(SCORES, 1, selection, "k").tolist() == [0, 1, 2, 3, 4]
    small, large = (set(choose_tokens(SCORES, s, "random", "k").tolist()) for s in (0.4, 0.8))
    assert small < large


def test_choices_that_mean_nothing_are_refused():
    with pytest.raises(UnknownNameError, match="bottom, random, top"):
        choose_tokens(SCORES, 0.5, "middle")
    with pytest.raises(KvreproError, match="share=1.5"):
        choose_tokens(SCORES, 1.5, "top")
    with pytest.raises(KvreproError, match="1 of 2 scores are not finite"):
        choose_tokens(torch.tensor([1.0, float("nan")]), 0.5, "top")


def test_the_tag_sees_the_question_and_the_kept_part_alone(random_model):
    """Logits after the tag equal those of a full run that hides what was not kept from the tag's query."""
    tokens = torch.randint(3, 230, (24,), generator=torch.Generator().manual_seed(0)).tolist()
    trace = Trace(tokens, 5, 20, 21)
    scores = torch.rand(15, generator=torch.Generator().manual_seed(1))
    cache = CompressedCache(random_model.config, 2, 30)
    with slot_attention(random_model, cache), torch.inference_mode():
        _admit(random_model, cache, trace, {"label": scores}, [0.4, 1.0], [("top", "label")], 0)
        assert cache.lengths == [5 + 6, 20]
        logits, _ = make_decoder(random_model).step(torch.tensor([tokens[20]] * 2), cache)
    hidden = torch.zeros(2, 2, 21, 21, dtype=torch.bool)
    lost = sorted(set(range(15)) - set(choose_tokens(scores, 0.4, "top").tolist()))
    hidden[:, :, 20, [5 + i for i in lost]] = True
    torch.testing.assert_close(logits[0], oracle_logits(random_model, tokens[:21], hidden)[20], atol=1e-4, rtol=1e-4)
    nothing = oracle_logits(random_model, tokens[:21], torch.zeros_like(hidden))
    torch.testing.assert_close(logits[1], nothing[20], atol=1e-4, rtol=1e-4)


def test_a_tiny_model_answers_from_its_whole_thought_and_not_from_none():
    model, tokenizer = load_model(model_entry("tiny-r1-llama"), "cpu")
    prompt = render_prompt(tokenizer, "A m:=7; B y:=6; C n:=m-y; D b:=n+m; find b,n,m")
    thought = tokenizer.encode("A m:=7; m=7\nB y:=6; y=6\nC n:=m-y; m=7,y=6,n=1\nD b:=n+m; n=1,m=7,b=8\n")
    ids = [*prompt, *thought, tokenizer.convert_tokens_to_ids("</think>"), 5]
    end = len(prompt) + len(thought)
    trace = Trace(ids, len(prompt), end, end + 1, "p", gold="817")
    frame = answers_from_parts(
        model,
        tokenizer,
        [(trace, {"label": torch.rand(len(thought))})],
        [0.0, 1.0],
        max_new_tokens=60,
        selections=[("top", "label")],
    )
    assert dict(zip(frame.share, frame.n_kept, strict=True)) == {0.0: 0, 1.0: len(thought)}
    assert dict(zip(frame.share, frame.correct, strict=True)) == {0.0: False, 1.0: True}
    assert frame.has_ended[frame.share == 1].all()


def test_accuracy_has_an_interval_over_problems():
    rows = [
        {"scores": s, "selection": "top", "share": 0.5, "correct": c, "n_kept": 3}
        for s in ("label", "predicted")
        for c in (True, True, False, True)
    ]
    table = accuracy_by_part(pd.DataFrame(rows)).set_index("choice")
    assert set(table.index) == {"top", "predicted top"}
    assert table.accuracy["top"] == 75
    assert table.lo["top"] < 75 < table.hi["top"]


def example(labels):
    n = len(labels)
    return Example("p", torch.zeros(n, 2), torch.tensor(labels), torch.zeros(n).long(), torch.arange(n), 0, n)


def test_the_sorted_curve_by_hand():
    curve = sorted_share_curve([example([1.0, 6, 2, 1]), example([1.0, 1, 1, 1])], [0.25, 0.5, 1.0])
    assert curve.mass_mean.tolist() == pytest.approx([(0.6 + 0.25) / 2, (0.8 + 0.5) / 2, 1])
    assert (curve.mass_lo <= curve.mass_mean).all()
    assert sorted_share_curve([example([1.0, 6, 2, 1])] * 3, [0.25]).mass_mean.tolist() == pytest.approx([0.6])


def test_break_even_of_the_paper_models_by_hand():
    from transformers import LlamaConfig

    llama = LlamaConfig(
        num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, hidden_size=4096, head_dim=128
    )
    even = break_even(llama, 50_333_696, rows=20, bytes_per_weight=2)
    assert even.operations == pytest.approx(2 * 50_333_696 / (4 * 32 * 32 * 128))
    assert round(even.operations) == 192
    assert even.bytes_moved == pytest.approx(50_333_696 * 2 / (20 * 128 * 1024))
    assert even.measured is None
    costs = pd.DataFrame({"slots": [100, 200, 300], "step_s": [0.1, 0.2, 0.3], "head_s": 0.05, "rows": 20})
    assert break_even(llama, 1, 1, 2, costs).measured == pytest.approx(50)


def test_slots_saved_and_the_length_that_pays_by_hand():
    # 3 prompt slots; compacted from 6 to 4: held at steps 1.. = 4, 5, 6, then 5, 6, 5, 6
    saved = saved_slots(3, 6, 4, 7)
    assert saved.held.tolist() == [4, 5, 6, 5, 6, 5, 6]
    assert saved.saved.tolist() == [0, 0, 0, 2, 2, 4, 4]
    # 0, 0, 0, 2, 4, 8, 12 saved in all against 1 slot a step
    assert break_even_length(saved, 1) == 6
    assert break_even_length(saved, 100) is None


def test_the_evictions_counted_are_those_of_the_engine():
    from kvrepro import generate
    from kvrepro.methods.table import create_method

    model, tokenizer = load_model(model_entry("tiny-r1-llama"), "cpu")
    prompt, sizes = list(range(5, 15)), dict(window=4, ratio=0.5)
    [reply] = generate(model, tokenizer, [prompt], "window", 20, max_new_tokens=40, keep_positions=True, **sizes)
    schedule = create_method("window", 20, **sizes).schedule
    saved = saved_slots(10, schedule.peak_tokens, schedule.kept_tokens, len(reply.token_ids) - 1)
    assert len(reply.kept_positions) > 1
    newest = [max(kept) for kept in reply.kept_positions]
    assert (saved.step[saved.held == schedule.peak_tokens] + 9).tolist() == newest


def test_steps_are_timed_and_the_untrained_head_has_the_same_shape(random_model):
    head = ImportancePredictor(PredictorShape(48, 8, 4))
    costs = step_costs(random_model, head, [4, 16], rows=2, repeats=2)
    assert costs.slots.tolist() == [4, 16]
    assert (costs.step_s > 0).all()
    assert (costs.head_s > 0).all()
    fresh = untrained_head(head)
    assert fresh.shape == head.shape
    assert not torch.equal(fresh.layers[0].weight, head.layers[0].weight)
    with pytest.raises(KvreproError, match="lengths="):
        step_costs(random_model, head, [0])
