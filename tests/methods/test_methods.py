"""Selection against the published rules written out loop by loop (docs/budgets.md#rules, docs/methods.md#dynts)."""

from __future__ import annotations

import math
import random

import pytest
import torch

from kvrepro.cache.slots import CompressedCache
from kvrepro.errors import KvreproError
from kvrepro.methods.budgets import Schedule
from kvrepro.methods.learned.importance import ImportancePredictor, PredictorShape
from kvrepro.methods.table import METHODS, create_method, method_class
from kvrepro.methods.views import NEVER, EvictionView


@pytest.mark.parametrize(
    ("budget", "window", "ratio", "k", "kept", "first_step", "period"),
    [
        (5000, 2000, 0.3, 900, 2900, 4800, 2101),
        (5000, 2500, 0.3, 750, 3250, 4800, 1751),
        (5000, 2000, 0.4, 1200, 3200, 4800, 1801),
        (3000, 1000, 0.3, 600, 1600, 2800, 1401),
        (3000, 1500, 0.4, 600, 2100, 2800, 901),
        (3000, 1, 0.3, 900, 901, 2800, 2100),
    ],
)
def test_schedule_golden_numbers(budget, window, ratio, k, kept, first_step, period):
    """docs/budgets.md#dynts-rule, prompt of 200: the published loop, simulated beside the schedule."""
    s = Schedule(budget, window, ratio)
    assert (s.kept_tokens - s.window, s.kept_tokens, s.period_steps, s.evict_every) == (k, kept, period, 1)
    n, n_previous, evictions = 200, 0, []
    for step in range(10_000):
        n += 1
        if n_previous >= budget and n > window:
            assert n == s.peak_tokens
            n = window + math.floor(ratio * (n - window) + 1e-9)
            assert n == s.kept_tokens
            evictions.append(step)
        n_previous = n
    assert evictions[0] == first_step
    assert evictions[1] - evictions[0] == period


def test_a_ratio_is_the_decimal_number_that_was_written():
    # the published code takes floor of the binary product
    assert math.floor(0.29 * 100) == 28
    assert Schedule(99, 0, 0.29).kept_tokens == 29


def test_schedule_without_ratio_keeps_the_budget():
    s = Schedule(256, 16, evict_every=64)
    assert (s.kept_tokens, s.peak_tokens, s.evict_every, s.period_steps) == (256, 320, 64, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "budget=0"),
        ((10, -1), "window=-1"),
        ((10, 10), "budget=10 leaves nothing to select: window=10"),
        ((10, 2, 0.0), r"ratio=0.0: .* \(0, 1\]"),
        ((10, 2, 1.5), "ratio=1.5"),
        ((10, 2, 0.5, 8), "ratio=0.5 and evict_every=8"),
        ((10, 2, None, 0), "evict_every=0"),
    ],
)
def test_schedule_refuses_sizes_that_do_not_fit(arguments, message):
    with pytest.raises(KvreproError, match=message):
        Schedule(*arguments)


def make_view(config, length: int, n_prompt: int, answer_from: int = NEVER, granularity="shared", rows: int = 2):
    """A cache with `rows` rows of `length` slots whose positions have gaps, as after earlier evictions."""
    cache = CompressedCache(config, rows, length, granularity)
    keys = torch.zeros(config.num_hidden_layers, config.num_key_value_heads, length, 8)
    for row in range(rows):
        cache.admit(keys, keys)
        rng = random.Random(row)
        tail = sorted(rng.sample(range(n_prompt, 3 * length), length - n_prompt))
        cache.positions[:, row, :] = torch.tensor([*range(n_prompt), *tail])
    every = torch.arange(rows)
    return EvictionView(
        cache,
        every,
        length,
        torch.full((rows,), n_prompt),
        torch.full((rows,), answer_from),
        every + 11,
        torch.zeros_like(every),
    )


def published_dynts(
    scores: list[float], positions: list[int], n_prompt: int, answer_from: int, s: Schedule
) -> list[int]:
    """docs/methods.md#dynts by loops: pinned first, then the best scores, ties to the earlier slot, then the window."""
    n = len(scores)
    k = math.floor(s.ratio * (n - s.window) + 1e-9)
    importance = []
    for slot in range(n - s.window):
        pinned = positions[slot] < n_prompt or positions[slot] >= answer_from
        importance.append((-math.inf if pinned else -scores[slot], slot))
    chosen = sorted(slot for _, slot in sorted(importance)[:k])
    return chosen + list(range(n - s.window, n))


@pytest.mark.parametrize("seed", range(6))
def test_dynts_selects_what_the_published_rule_selects(random_model, seed):
    rng = random.Random(seed)
    length, n_prompt = 41, rng.randrange(3, 12)
    answer_from = rng.choice([NEVER, 60])
    view = make_view(random_model.config, length, n_prompt, answer_from)
    method = create_method(
        "dynts",
        length - 1,
        window=rng.choice([0, 5, 9]),
        ratio=0.7,
        predictor=ImportancePredictor(PredictorShape(48, 4, 4)),
    )
    method.prepare(view.cache)
    # few distinct values, so that ties occur
    view.cache.slot_state["importance"][:] = torch.tensor(
        [[rng.randrange(5) for _ in range(length)] for _ in range(2)]
    )[None, :, None]
    [plan], overflow = method.plans(view)
    for row in range(2):
        expected = published_dynts(
            view.state("importance")[0, row, 0].tolist(),
            view.positions[0, row, 0].tolist(),
            n_prompt,
            answer_from,
            method.schedule,
        )
        assert plan.slots[0, row, 0].tolist() == expected
    assert overflow.tolist() == [0, 0]


def test_window_keeps_the_newest_and_question_window_the_question_too(random_model):
    view = make_view(random_model.config, 31, 6)
    window = create_method("window", 30, window=10, ratio=0.5)
    assert window.plans(view)[0][0].slots[0, 0, 0].tolist() == list(range(11, 31))
    question = create_method("question_window", 30, window=10, ratio=0.5)
    assert question.plans(view)[0][0].slots[0, 0, 0].tolist() == [*range(6), *range(17, 31)]


def test_random_is_uniform_over_the_thinking_tokens_and_spares_the_question(random_model):
    counts, rounds = torch.zeros(31), 400
    method = create_method("random", 30, window=5, ratio=0.5)
    for i in range(rounds):
        view = make_view(random_model.config, 31, 4, rows=1)
        view.noise_keys[:] = i
        counts[method.plans(view)[0][0].slots[0, 0, 0]] += 1
    assert torch.all(counts[:4] == rounds)
    assert torch.all(counts[26:] == rounds)
    share = (13 - 4) / (26 - 4)
    assert torch.all((counts[4:26] / rounds - share).abs() < 5 * (share * (1 - share) / rounds) ** 0.5)


def test_more_pins_than_room_go_by_rule_and_are_counted(random_model):
    view = make_view(random_model.config, 21, 12)
    with pytest.raises(
        KvreproError, match="12 pinned tokens do not fit: budget=20 keeps 12 slots .* so 8 can be pinned"
    ):
        create_method("random", 20, window=4, ratio=0.5).check_prompt(12)
    method = create_method("random", 20, window=4, ratio=0.5, pin_overflow="keep_first")
    method.check_prompt(12)
    [plan], overflow = method.plans(view)
    assert plan.slots[0, 0, 0].tolist() == [*range(8), *range(17, 21)]
    assert overflow.tolist() == [4, 4]


def test_dynts_observes_the_newest_slot_of_each_row(random_model):
    from kvrepro.methods.views import StepView

    torch.manual_seed(0)
    head = ImportancePredictor(PredictorShape(48, 8, 4))
    view = make_view(random_model.config, 9, 3)
    method = create_method("dynts", 20, predictor=head)
    method.prepare(view.cache)
    # a step that ends with 9 and 6 slots
    view.cache.lengths = [8, 5]
    view.cache.open_step(2)
    view.cache.close_step()
    hidden = torch.randn(2, 48)
    method.observe(StepView(view.cache, hidden, torch.zeros(2, dtype=torch.int64)))
    state = view.cache.slot_state["importance"][0, :, 0]
    torch.testing.assert_close(torch.stack([state[0, 8], state[1, 5]]), head(hidden))
    assert state.count_nonzero() == 2


def test_registry_names_match_their_classes():
    for name in METHODS:
        cls = method_class(name)
        assert cls.name == name
        assert cls.__doc__ and cls.source
