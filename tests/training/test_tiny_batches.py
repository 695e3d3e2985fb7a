"""Batches of the tiny reasoners' training: which questions they may hold, what is learned, what a row sees."""

from __future__ import annotations

import random

import pytest
import torch

from kvrepro.benchmarks.chains.language import ASSISTANT, EOS, PAD, USER, vocabulary
from kvrepro.benchmarks.chains.problems import SPLITS, sample_problem, split_of
from kvrepro.benchmarks.generated import GENERATED
from kvrepro.benchmarks.table import load_problems
from kvrepro.errors import KvreproError
from kvrepro.training.tiny.batches import IGNORED, encode_example, problem_batch, repeat_batch, sight

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
