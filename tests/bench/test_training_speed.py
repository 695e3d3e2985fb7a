"""What caching saves: operations by hand, both sides timed in one run, sizes that mean nothing refused."""

from __future__ import annotations

import json

import pytest
import torch

from kvrepro.bench import training_speed as speed
from kvrepro.errors import KvreproError
from kvrepro.methods.learned.importance import ImportancePredictor, PredictorShape
from kvrepro.training.importance.loss import ranking_loss
from kvrepro.training.importance.recipe import PredictorRecipe, published_recipe
from kvrepro.training.importance.training import PredictorTraining


def test_operations_by_hand(random_model):
    head = ImportancePredictor(PredictorShape(6, 4, 2))
    # weights 24 + 8 + 2; forward and weight gradients of all, input gradients of the last two
    assert speed.head_operations(head, 10) == 10 * (2 * 34 + 2 * 34 + 2 * 10)
    decoder = random_model.get_decoder()
    weights = sum(p.numel() for p in decoder.parameters()) - decoder.embed_tokens.weight.numel()
    # 2 layers, 6 heads of 8 channels; 1 + 2 + 3 pairs
    assert speed.backbone_operations(random_model, 3) == 2 * weights * 3 + 4 * 2 * 6 * 8 * 6


def test_both_sides_are_timed_in_one_run(random_model):
    sizes = dict(n_traces=4, trace_tokens=30, thinking_tokens=20, repeats=2)
    found = speed.epoch_costs(random_model, PredictorRecipe(batch_traces=2, token_share=1.0), **sizes)
    assert found["head_s"] > 0
    assert found["backbone_s"] > 0
    assert found["times_faster"] == pytest.approx(1 + found["backbone_s"] / found["head_s"], rel=0.2)
    thinned = speed.epoch_costs(random_model, PredictorRecipe(batch_traces=2, token_share=0.5), **sizes)
    assert thinned["times_faster_by_operations"] - 1 == pytest.approx(
        2 * (found["times_faster_by_operations"] - 1), abs=0.2
    )


@pytest.mark.parametrize("changes", [{"thinking_tokens": 30}, {"n_traces": 1}, {"repeats": 0}])
def test_sizes_that_mean_nothing_are_refused(random_model, changes):
    sizes = dict(n_traces=4, trace_tokens=30, thinking_tokens=20, repeats=1) | changes
    with pytest.raises(KvreproError, match="the thought is a part of the trace"):
        speed.epoch_costs(random_model, PredictorRecipe(), **sizes)


def test_the_command_prints_both_sides_and_json(capsys, random_model, monkeypatch):
    monkeypatch.setattr(speed, "load_model", lambda entry: (random_model, None))
    speed.main(["tiny-r1-llama", "--n-traces", "2", "--trace-tokens", "12", "--thinking-tokens", "9", "--repeats", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert "head 0." in lines[0]
    assert "backbone 0." in lines[0]
    assert json.loads(lines[-1])["every token at every step"]["token_share"] == 1


def test_a_step_sees_a_fresh_part_of_the_mapped_labels():
    data = speed._MadeUp(4, 40, 6)
    training = PredictorTraining(data, PredictorRecipe(token_share=0.25, label_map="rank"))
    example = next(data.examples("train"))
    whole = PredictorTraining(data, PredictorRecipe(token_share=1.0, label_map="rank"))._drawn(
        example, torch.Generator()
    )
    generator = torch.Generator().manual_seed(0)
    hidden, labels = training._drawn(example, generator)
    assert hidden.shape == (10, 6)
    # every drawn token keeps its own label, mapped over the whole trace
    for state, label in zip(hidden, labels, strict=True):
        [place] = (example.hidden == state).all(1).nonzero()[0].tolist()
        assert label == whole[1][place]
    assert not torch.equal(training._drawn(example, generator)[0], hidden)
    assert published_recipe("r1-llama").token_share == 1
    for share in (0, 1.5):
        with pytest.raises(KvreproError, match="token_share="):
            PredictorRecipe(token_share=share)


def test_the_gradient_of_drawn_pairs_is_that_of_the_formula():
    labels = torch.tensor([1.0, 2, 2, 5, 3, 0, 7, 7])
    predicted = torch.randn(8, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = ranking_loss([predicted], [labels], PredictorRecipe(tau=0.5, pairs=20), torch.Generator().manual_seed(3))
    (ours,) = torch.autograd.grad(found, predicted)
    generator = torch.Generator().manual_seed(3)
    first = torch.randint(8, (20,), generator=generator)
    second = (first + torch.randint(1, 8, (20,), generator=generator)) % 8
    sign = (labels[first] - labels[second]).sign()
    terms = torch.nn.functional.softplus(-sign * (predicted[first] - predicted[second]) / 0.5)
    written = (terms * sign.abs()).sum() / sign.abs().sum()
    (theirs,) = torch.autograd.grad(written, predicted)
    torch.testing.assert_close(found, written)
    torch.testing.assert_close(ours, theirs)
