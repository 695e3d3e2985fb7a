"""Training of the tiny reasoners: what a batch holds, which questions it may hold, and resuming changes nothing."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from kvrepro.benchmarks.chains.language import ASSISTANT, EOS, PAD, USER, vocabulary
from kvrepro.benchmarks.chains.problems import SPLITS, sample_problem, split_of
from kvrepro.benchmarks.generated import GENERATED
from kvrepro.benchmarks.table import load_problems
from kvrepro.errors import KvreproError
from kvrepro.training.tiny import train as training
from kvrepro.training.tiny.batches import IGNORED, encode_example, problem_batch, repeat_batch, sight
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
PIECES = {i: piece for piece, i in vocabulary().items()}


def question_of(row) -> str:
    pieces = [PIECES[int(i)] for i in row]
    return "".join(pieces[pieces.index(USER) + 1 : pieces.index(ASSISTANT)])


def test_training_batches_never_hold_a_held_out_or_benchmark_question():
    questions = []
    for seed in range(40):
        ids, *_ = problem_batch(random.Random(seed), 2500, (4, 10))
        questions += [question_of(row) for row in ids]
    assert len(questions) > 400
    assert {split_of(q) for q in questions} == {"train"}


def test_predictor_questions_come_from_the_split_that_was_asked_for():
    from kvrepro.training.questions import tiny_questions

    for split in ("train", "held_out"):
        assert {split_of(q.text) for q in tiny_questions(split, 40, (4, 10), seed=0)} == {split}
    with pytest.raises(KvreproError, match="never from a benchmark"):
        tiny_questions("benchmark", 1, (4, 10), seed=0)


def test_splits_have_the_shares_of_their_table_and_do_not_overlap():
    benchmark = {p.question for name in GENERATED for p in load_problems(name)}
    assert {split_of(q) for q in benchmark} == {"benchmark"}
    found = [split_of(f"question {i}") for i in range(4000)]
    for split in set(SPLITS):
        assert abs(found.count(split) / len(found) - SPLITS.count(split) / len(SPLITS)) < 0.03


def test_loss_falls_on_the_reply_and_its_end_alone():
    ids, labels, weights = problem_batch(random.Random(3), 2000, (4, 8))
    assert weights.shape == ids.shape
    table = vocabulary()
    assert ids.shape == labels.shape
    assert ids.numel() <= 2000
    for row, target in zip(ids.tolist(), labels.tolist(), strict=True):
        reply_from = row.index(table[ASSISTANT]) + 3  # assistant, <think>, line break
        end = row.index(table[EOS]) + 1
        assert target[:reply_from] == [IGNORED] * reply_from
        assert target[reply_from:end] == row[reply_from:end]
        assert set(row[end:]) <= {table[PAD]}
        assert set(target[end:]) <= {IGNORED}


def test_mistakes_are_read_and_never_learned():
    problem = sample_problem(random.Random(8), 10, "sum", 3)
    worked = problem.worked_reply(random.Random(1), 0.3)
    example = encode_example(problem, random.Random(1), 0.3, turn_weight=9.0)
    ids, labels, mistakes = example.ids, example.labels, worked.mistakes
    assert len(mistakes) > 3
    n_prompt = len(ids) - len(worked.pieces) - 1
    heavy = [i - n_prompt for i, weight in enumerate(example.weights) if weight == 9.0]
    assert heavy == worked.turns
    assert set(example.weights) == {1.0, 9.0}
    ignored = [i - n_prompt for i, label in enumerate(labels) if label == IGNORED and i >= n_prompt]
    assert ignored == mistakes
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))


def test_long_batches_verify_and_stay_below_the_longest():
    for seed in range(20):
        ids, *_ = problem_batch(random.Random(seed), 3000, (4, 24), 6, 0.3, longest=900)
        assert ids.shape[1] <= 900
        assert {split_of(question_of(row)) for row in ids} == {"train"}
    asked = {question_of(problem_batch(random.Random(s), 3000, (4, 8), 6, 0.3)[0][0])[-8:] for s in range(60)}
    assert {f"; wait {n}" for n in range(1, 7)} < asked


def test_a_blind_row_keeps_the_prompt_and_the_newest_tokens_and_loses_others_for_good():
    ids, labels, _ = problem_batch(random.Random(2), 4000, (8, 10), most_passes=2)
    rows, width = ids.shape
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    everything = sight(torch.Generator().manual_seed(0), ids, labels, 0.0, (16, 40))
    assert torch.equal(everything, causal.expand(rows, 1, -1, -1))
    seen, again = (sight(torch.Generator().manual_seed(1), ids, labels, 1.0, (16, 40))[:, 0] for _ in range(2))
    assert torch.equal(seen, again)
    assert not (seen & ~causal).any()
    age = torch.arange(width)[:, None] - torch.arange(width)
    assert seen[:, (age >= 0) & (age < 16)].all()
    prompts = [int((row != IGNORED).nonzero()[0]) for row in labels]
    for row, length in enumerate(prompts):
        assert torch.equal(seen[row, :, :length], causal[:, :length])
        old = seen[row, :, length:][age[:, length:] > 40].float()
        assert old.mean() < 1, "nothing was hidden"
        # what a later token does not see, no token after it sees
        hidden = ~seen[row] & causal
        assert (hidden.long().diff(dim=0) >= 0).all()


def test_repeats_have_a_period_of_8_to_24_and_loss_on_the_repeats_alone():
    ids, labels = repeat_batch(torch.Generator().manual_seed(0), 64, 96)
    periods = set()
    for row, target in zip(ids, labels, strict=True):
        period = int((target == IGNORED).sum())
        periods.add(period)
        assert torch.equal(row[period:], row[:-period])
        assert len(set(row[:period].tolist())) == period
        assert torch.equal(target[period:], row[period:])
    assert min(periods) >= 8
    assert max(periods) <= 24
    assert len(periods) > 10


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
