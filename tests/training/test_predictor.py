"""The head against the published numbers, its training against chance, its scores against counts by hand."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from kvrepro.benchmarks.generated import GENERATED
from kvrepro.errors import KvreproError
from kvrepro.methods.learned.importance import (
    ImportancePredictor,
    PredictorShape,
    load_predictor,
    load_predictor_for,
    save_predictor,
)
from kvrepro.training.dataset import Example
from kvrepro.training.importance.ranking import fit_baselines, lead_over, rank_metrics, score_traces, summarise_scores
from kvrepro.training.importance.recipe import PredictorRecipe
from kvrepro.training.importance.training import PredictorTraining


@pytest.mark.parametrize(("hidden", "parameters"), [(4096, 50_333_696), (3584, 46_139_392)])
def test_published_head_sizes(hidden, parameters):
    """docs/predictor.md#head."""
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


def example(number: int, n: int = 40, width: int = 6) -> Example:
    """A trace whose label is a function of its hidden state, plus a little of its token id."""
    generator = torch.Generator().manual_seed(number)
    hidden, tokens = torch.randn(n, width, generator=generator), torch.randint(9, (n,), generator=generator)
    labels = 1e-3 * (2 * hidden[:, 0].sigmoid() + 0.2 * tokens / 9)
    return Example(f"p{number}", hidden, labels, tokens, torch.arange(5, 5 + n), 5, n)


class Examples:
    """The part of `LabelledTraces` that training needs, from memory."""

    folder, width = "memory", 6

    def __init__(self, n_train: int = 12, n_held_out: int = 8):
        self.splits = {
            "train": [example(i) for i in range(n_train)],
            "held_out": [example(1000 + i) for i in range(n_held_out)],
        }
        self.manifest = {"counts": {}}

    def count(self, split):
        return len(self.splits[split])

    def examples(self, split, order=None):
        order = range(self.count(split)) if order is None else order
        return (self.splits[split][i] for i in order)

    def stopping_order(self):
        return list(range(self.count("held_out")))[::4]


RECIPE = PredictorRecipe(epochs=15, batch_traces=4, micro_traces=3, lr=3e-2, alpha=0.5, pairs=64)


@pytest.fixture(scope="module")
def trained():
    training = PredictorTraining(Examples(), RECIPE)
    return training.run(), training


def test_training_learns_what_the_hidden_state_says(trained):
    head, training = trained
    assert training.log[-1]["train_mse"] < 0.5 * training.log[0]["train_mse"]
    scorer = {"head": lambda e: head(e.hidden).detach()}
    frame = score_traces({**scorer, **fit_baselines(Examples().splits["train"])}, Examples().splits["held_out"])
    lead = lead_over(frame, "head").set_index(["over", "metric"])
    assert set(lead.index.get_level_values("over")) == {"random", "position", "identity"}
    assert (lead.xs("kendall_tau", level="metric").lo > 0.1).all()


def test_training_is_deterministic_and_resuming_changes_nothing(trained, tmp_path):
    head, whole = trained
    first = PredictorTraining(Examples(), RECIPE, tmp_path)
    step, calls = first._step, []

    def interrupted(batch, generator):
        calls.append(1)
        if len(calls) == 5 * first.steps_per_epoch + 2:
            raise KeyboardInterrupt
        return step(batch, generator)

    first._step = interrupted
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = PredictorTraining(Examples(), RECIPE, tmp_path)
    assert second.epoch == 5
    resumed = second.run()
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), resumed.parameters(), strict=True))
    log = pd.read_csv(tmp_path / "log.csv")
    assert log.epoch.tolist() == list(range(1, len(whole.log) + 1))
    assert log.train_loss.tolist() == pytest.approx([row["train_loss"] for row in whole.log])
    other = PredictorRecipe(epochs=13, batch_traces=4)
    with pytest.raises(KvreproError, match="another recipe"):
        PredictorTraining(Examples(), other, tmp_path)
    [state] = [path for path in tmp_path.iterdir() if path.suffix not in (".csv", ".json", ".safetensors")]
    torch.save({"epoch": 5, "head": {}}, state)
    with pytest.raises(KvreproError, match="written by an older version: delete it"):
        PredictorTraining(Examples(), RECIPE, tmp_path)


def test_early_stopping_keeps_the_best_epoch_and_none_keeps_the_last():
    patient = PredictorTraining(Examples(), PredictorRecipe(epochs=30, lr=0.05, patience=2, batch_traces=2, alpha=1.0))
    patient.run()
    taus = [row["held_out_kendall_tau"] for row in patient.log]
    assert patient.best["kendall_tau"] == max(taus)
    if patient.epoch < 30:
        assert patient.best["epoch"] == patient.epoch - 2
    last = PredictorTraining(Examples(), PredictorRecipe(epochs=3, lr=0.05, patience=None))
    last.run()
    assert last.best["epoch"] == 3


def test_learning_rate_warms_up_and_falls_to_nothing():
    training = PredictorTraining(Examples(), PredictorRecipe(epochs=10, batch_traces=3, lr=1.0))
    rates = [training.learning_rate(step) for step in range(40)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[-1] < 0.01
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_too_few_traces_are_refused():
    with pytest.raises(KvreproError, match="no training trace"):
        PredictorTraining(Examples(0), RECIPE)
    with pytest.raises(KvreproError, match="1 held-out traces"):
        PredictorTraining(Examples(4, 1), RECIPE)


def test_rank_metrics_by_hand():
    labels = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    perfect = rank_metrics(labels**3, labels)
    assert perfect["kendall_tau"] == pytest.approx(1)
    assert perfect["top20_overlap"] == perfect["top20_mass_found"] == 1
    swapped = rank_metrics(torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 9, 8, 10]), labels)
    assert swapped["kendall_tau"] == pytest.approx(1 - 2 / 45)
    assert swapped["top20_overlap"] == 0.5
    assert swapped["top20_mass_found"] == pytest.approx(18 / 19)
    assert swapped["overlap_50"] == 1
    assert rank_metrics(torch.ones(10), labels)["kendall_tau"] == 0


def test_baselines_know_what_their_names_say():
    """Labels that depend on the place alone, or on the token alone, are ranked by that baseline alone."""
    places, tokens = torch.arange(5, 45), torch.randperm(40, generator=torch.Generator().manual_seed(1))

    def made(labels, number=0):
        return Example(f"p{number}", torch.zeros(40, 2), labels, tokens, places, 5, 40)

    by_place = fit_baselines([made(torch.arange(40.0))])
    assert rank_metrics(by_place["position"](made(torch.arange(40.0))), torch.arange(40.0))["kendall_tau"] == 1
    by_token = fit_baselines([made(tokens.float())])
    assert rank_metrics(by_token["identity"](made(tokens.float())), tokens.float())["kendall_tau"] == 1
    unseen = Example("p", torch.zeros(2, 2), torch.ones(2), torch.tensor([77, 3]), places[:2], 5, 40)
    assert by_token["identity"](unseen)[0] == pytest.approx(0.5)
    a, b = (by_token["random"](made(torch.ones(40), n)) for n in (0, 1))
    assert torch.equal(a, by_token["random"](made(torch.ones(40), 0)))
    assert not torch.equal(a, b)


def test_summaries_have_intervals_over_traces():
    rows = [{"predictor": "head", "problem_id": str(i), "kendall_tau": t} for i, t in enumerate((0.5, 0.7, 0.6))]
    (row,) = summarise_scores(pd.DataFrame(rows), ["kendall_tau"]).to_dict("records")
    assert row["mean"] == pytest.approx(0.6)
    assert 0.5 <= row["lo"] < 0.6 < row["hi"] <= 0.7
    assert row["n_traces"] == 3


@pytest.mark.parametrize("model", ["tiny-r1-llama", "tiny-r1-qwen"])
def test_the_cards_of_the_shipped_heads_say_that_they_beat_every_baseline(model):
    import json

    from kvrepro.models.identity import weights_fingerprint
    from kvrepro.models.table import model_entry
    from kvrepro.paths import CHECKPOINTS

    card = json.loads((CHECKPOINTS / model / "importance" / "card.json").read_text())
    assert card["weights"] == weights_fingerprint(model_entry(model))
    assert set(card["lead"]) == {"random", "position", "identity"}
    for over in card["lead"].values():
        for metric in ("kendall_tau", "top20_overlap"):
            assert 0 < over[metric]["lo"] < over[metric]["mean"] < over[metric]["hi"]
    assert card["held_out"]["n_traces"] >= 100
    assert set(GENERATED) <= set(card["leakage"]["checked"])
