"""Training of the tiny reasoners: the schedule, and resuming changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from kvrepro.errors import KvreproError
from kvrepro.training.tiny import train as training
from kvrepro.training.tiny.train import Recipe, main, train

RECIPE = Recipe(
    "tiny-r1-llama",
    seed=1,
    repeat_steps=3,
    problem_steps=3,
    long_steps=3,
    long_batch_tokens=600,
    long_largest=6,
    most_passes=2,
    longest=500,
    repeat_rows=3,
    repeat_length=40,
    batch_tokens=300,
    first_largest=5,
    largest=6,
    warmup_steps=2,
)


def test_curriculum_and_learning_rate_follow_the_recipe():
    recipe = Recipe("tiny-r1-llama", repeat_steps=100, problem_steps=1000, long_steps=500)
    assert recipe.sizes(0) == (recipe.smallest, recipe.first_largest)
    assert recipe.sizes(400) == recipe.sizes(999) == (recipe.smallest, recipe.largest)
    rates = [recipe.learning_rate(step) for step in range(1100)]
    assert max(rates) <= recipe.lr
    assert rates[99] == recipe.lr
    assert rates[1099] == pytest.approx(recipe.lr * recipe.final_lr_share, rel=0.01)
    assert min(rates) > 0
    assert max(recipe.learning_rate(step) for step in range(1100, 1600)) <= recipe.long_lr
    assert recipe.learning_rate(1599) == pytest.approx(recipe.long_lr * recipe.final_lr_share, rel=0.01)
    assert (recipe.passes(0), recipe.passes(499)) == (1, recipe.most_passes)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Weights and card of a short run: 3 steps of each stage."""
    folder = tmp_path_factory.mktemp("whole")
    card = train(RECIPE, folder / "model", folder / "state.pt")
    return folder, card


def test_a_short_run_leaves_a_checkpoint_a_card_and_no_state(uninterrupted):
    folder, card = uninterrupted
    assert not (folder / "state.pt").exists()
    assert json.loads((folder / "model" / "training.json").read_text()) == card
    assert card["recipe"]["seed"] == 1
    assert card["curve"][-1]["step"] == 9
    assert card["curve"][-1]["loss"] < 10
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    assert all(p.isfinite().all() for p in model.parameters())


def stop_at(monkeypatch, step):
    """Save after every step, and interrupt before `step` is computed."""
    original = training.train_step

    def train_step(recipe, model, optimizers, number):
        if number == step:
            raise KeyboardInterrupt
        return original(recipe, model, optimizers, number)

    monkeypatch.setattr(training, "SAVE_EVERY_S", -1.0)
    monkeypatch.setattr(training, "train_step", train_step)


@pytest.mark.parametrize("step", [2, 4, 6, 7])
def test_stopping_and_resuming_gives_the_weights_of_an_uninterrupted_run(uninterrupted, tmp_path, monkeypatch, step):
    folder, card = uninterrupted
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, tmp_path / "model", tmp_path / "state.pt")
    assert not (tmp_path / "model").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]
    resumed = train(RECIPE, tmp_path / "model", tmp_path / "state.pt")
    whole = load_file(folder / "model" / "model.safetensors")
    again = load_file(tmp_path / "model" / "model.safetensors")
    assert whole.keys() == again.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=0, msg=f"{name} differs after resuming")
    assert resumed["curve"] == card["curve"]


def test_the_third_stage_goes_on_from_a_checkpoint_of_the_first_two(uninterrupted, tmp_path):
    two = replace(RECIPE, long_steps=0)
    train(two, tmp_path / "two", tmp_path / "two.pt")
    card = train(RECIPE, tmp_path / "model", tmp_path / "state.pt", start=tmp_path / "two")
    whole, again = (load_file(f / "model" / "model.safetensors") for f in (uninterrupted[0], tmp_path))
    for name, weight in whole.items():
        torch.testing.assert_close(again[name], weight, rtol=0, atol=0, msg=f"{name} differs")
    assert card["curve"][-1] == uninterrupted[1]["curve"][-1]
    with pytest.raises(KvreproError, match="all three stages"):
        train(RECIPE, tmp_path / "more", tmp_path / "more.pt", start=tmp_path / "model")
    longer = replace(RECIPE, problem_steps=RECIPE.problem_steps + 1)
    with pytest.raises(KvreproError, match=f"problem_steps={RECIPE.problem_steps}, this run has"):
        train(longer, tmp_path / "more", tmp_path / "more.pt", start=tmp_path / "two")
    with pytest.raises(KvreproError, match="holds no training.json"):
        train(RECIPE, tmp_path / "more", tmp_path / "more.pt", start=tmp_path)


@pytest.mark.parametrize("wrong", [{"most_passes": 10}, {"long_largest": 27}, {"largest": 3}])
def test_a_recipe_of_problems_that_cannot_exist_is_refused_before_hours_of_training(wrong, tmp_path, capsys):
    ((name, value),) = wrong.items()
    with pytest.raises(KvreproError, match=f"{name}={value}"):
        replace(RECIPE, **wrong)
    with pytest.raises(SystemExit):
        main(["tiny-r1-llama", "--out", str(tmp_path), f"--{name.replace('_', '-')}", str(value)])
    assert f"{name}={value}" in capsys.readouterr().err
    assert replace(RECIPE, most_passes=0).passes(0) == 0


def test_a_state_of_another_recipe_is_refused_and_a_longer_one_only_on_request(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, tmp_path / "model", tmp_path / "state.pt")
    with pytest.raises(KvreproError, match=r"state\.pt was written by another recipe"):
        train(replace(RECIPE, lr=1e-3), tmp_path / "model", tmp_path / "state.pt")
    shorter = replace(RECIPE, long_steps=1)
    with pytest.raises(KvreproError, match="another recipe"):
        train(shorter, tmp_path / "model", tmp_path / "state.pt")
    card = train(shorter, tmp_path / "model", tmp_path / "state.pt", reschedule=True)
    assert card["schedule_changes"] == [{"step": 2, "long_steps": [3, 1]}]
    assert card["curve"][-1]["step"] == 7


def test_a_kill_while_the_state_is_written_keeps_the_one_before(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, tmp_path / "model", tmp_path / "state.pt")
    before = (tmp_path / "state.pt").read_bytes()

    def half(content, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        patch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt):
            train(RECIPE, tmp_path / "model", tmp_path / "state.pt")
    assert (tmp_path / "state.pt").read_bytes() == before


def test_command_line_trains_the_qwen_model_into_a_folder(tmp_path, capsys):
    out = tmp_path / "qwen"
    steps = [
        "--repeat-steps",
        "1",
        "--problem-steps",
        "1",
        "--batch-tokens",
        "300",
        "--largest",
        "8",
        "--long-steps",
        "0",
    ]
    training.main(["tiny-r1-qwen", *steps, "--out", str(out)])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["folder"] == str(out)
    assert json.loads((out / "config.json").read_text())["model_type"] == "qwen2"
    with pytest.raises(SystemExit):
        training.main(["tiny-r1-gpt"])
    assert "tiny-r1-llama" in capsys.readouterr().err


def test_a_stopped_training_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("kvrepro.training.tiny.train.train", stop)
    with pytest.raises(SystemExit) as stopped:
        main(["tiny-r1-llama", "--out", str(tmp_path / "m"), "--state", str(tmp_path / "m.state")])
    assert stopped.value.code == 130
    assert f"goes on from what was last saved in {tmp_path / 'm.state'}" in capsys.readouterr().err
