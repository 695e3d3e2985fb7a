"""Labels against a naive computation, the head against the published numbers, training against chance."""

from __future__ import annotations

import random

import pytest
import torch

from kvrepro.errors import KvreproError
from kvrepro.labels import label_trace
from kvrepro.predictor import ImportancePredictor, PredictorShape, load_predictor, load_predictor_for, save_predictor
from kvrepro.predictor_training import PredictorRecipe, map_labels, train_predictor
from kvrepro.traces import Trace, tiny_questions


@pytest.mark.parametrize(("n", "answer_from"), [(30, 18), (150, 60), (12, 11)])
def test_labels_equal_a_naive_eager_computation(random_model, n, answer_from):
    tokens = [random.Random(n).randrange(3, 230) for _ in range(n)]
    labels, hidden = label_trace(random_model, tokens, answer_from)
    random_model.set_attn_implementation("eager")
    with torch.inference_mode():
        out = random_model(input_ids=torch.tensor([tokens]), output_attentions=True, output_hidden_states=True)
    random_model.set_attn_implementation("sdpa")
    attention = torch.stack(out.attentions)[:, 0]
    attention = attention * (1 - torch.eye(n))
    expected = attention[:, :, answer_from:].mean(dim=(0, 1, 2))
    torch.testing.assert_close(labels, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(hidden, out.hidden_states[-1][0], atol=1e-5, rtol=1e-5)
    assert labels.sum() <= 1


def test_a_trace_without_answer_has_no_labels(random_model):
    with pytest.raises(ValueError, match="no answer to label from"):
        label_trace(random_model, [5, 6, 7], 3)


def test_label_map_golden_numbers():
    """METHODS.md 3.3."""
    found = map_labels(torch.tensor([1e-5, 1e-4, 1e-3, 1e-2]))
    torch.testing.assert_close(found, torch.tensor([1.0541, 2.1032, 4.1964, 8.3730]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("hidden", "parameters"), [(4096, 50_333_696), (3584, 46_139_392)])
def test_published_head_sizes(hidden, parameters):
    """METHODS.md 3.4."""
    with torch.device("meta"):
        head = ImportancePredictor(PredictorShape(hidden, 8192, 2048))
    assert sum(p.numel() for p in head.parameters()) == parameters


def test_head_is_positive_and_survives_its_file(tmp_path, random_model):
    torch.manual_seed(0)
    head = ImportancePredictor(PredictorShape(48, 16, 8))
    hidden = torch.randn(7, 48)
    assert torch.all(head(hidden) > 0)
    save_predictor(head, tmp_path, {"note": 1})
    assert torch.equal(load_predictor(tmp_path, 48)(hidden), head(hidden))
    assert torch.equal(load_predictor_for(random_model, tmp_path)(hidden), head(hidden))
    with pytest.raises(KvreproError, match="48 wide, the model's hidden state 64"):
        load_predictor(tmp_path, 64)
    with pytest.raises(KvreproError, match="no importance predictor in .*`kvrepro train MODEL`"):
        load_predictor(tmp_path / "absent")


def test_training_fits_the_labels_and_is_deterministic(random_model):
    rng = random.Random(0)
    traces = [Trace([rng.randrange(3, 40) for _ in range(60)], 10, 45) for _ in range(24)]
    recipe = PredictorRecipe(epochs=60, batch_tokens=128, lr=5e-3)
    head, card = train_predictor(random_model, traces, traces[:6], recipe)
    again, _ = train_predictor(random_model, traces, traces[:6], recipe)
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters(), strict=True))
    assert card["train_mse_by_epoch"][-1] < 0.8 * card["train_mse_by_epoch"][0]
    assert card["held_out"]["kendall_tau"] > 0.3
    assert card["held_out"]["top20_overlap"] > 0.3
    assert set(card["held_out"]) == {"n_traces", "mse", "kendall_tau", "top20_overlap", "top20_mass"}


def test_trace_questions_never_come_from_a_benchmark():
    from kvrepro.tiny.split import split_of

    for split in ("train", "held_out"):
        questions = tiny_questions(split, 20, (8, 12), 0)
        assert {split_of(q) for q, _, _ in questions} == {split}
    with pytest.raises(KvreproError, match="never from a benchmark"):
        tiny_questions("benchmark", 1, (8, 12), 0)
