"""How many samples and problems a difference needs: power by simulation, what is needed, what cannot be asked."""

from __future__ import annotations

import numpy as np
import pytest

from kvrepro.errors import KvreproError
from kvrepro.scores.power import PowerModel, assumed_model, estimated_model, simulated_coverage

NAN = float("nan")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (estimated_model, ([[1, NAN], [0, 1]], [[1, 0], [0, 1]]), "not finite"),
        (estimated_model, ([], []), "shape"),
        (assumed_model, (0.5, NAN), "spread"),
        (assumed_model, (0.5, -0.3), "spread"),
        (PowerModel, (NAN, 0.1), "variances"),
        (PowerModel, (-1, 0.1), "variances"),
        (PowerModel(0.1, 0.1).power, (0.05, 30.0, 5), "n_problems"),
        (PowerModel(0.1, 0.1).power, (0.05, 30, True), "n_samples"),
        (PowerModel(0.1, 0.1).problems_needed, (0.05, 5, 1.0), "power"),
        (PowerModel(0.1, 0.1).samples_needed, (0.05, 30, 80), "power"),
        (PowerModel(0.1, 0.1).detectable, (30, 5, 0.05, 0.05), "above alpha"),
        (simulated_coverage, (1.0,), "chance"),
        (simulated_coverage, (0.5, 30, 0), "n_samples"),
        (simulated_coverage, (NAN,), "chance"),
    ],
)
def test_input_that_is_no_data_is_named(function, arguments, message):
    with pytest.raises(KvreproError, match=message):
        function(*arguments)


def test_without_noise_every_difference_is_found():
    model = estimated_model([[1, 1], [0, 0]], [[1, 1], [0, 0]])
    assert model.power(0.01, 2, 1) == 1.0
    assert model.detectable(2, 1) == 0.0


def test_a_difference_far_above_the_noise_is_found_for_certain():
    """The lower tail of scipy's noncentral t is nan there, which once made 500 samples out of one."""
    model = assumed_model(0.9, 0.25)
    assert [model.power(0.2, 1000, k) for k in (1, 64)] == pytest.approx([1, 1])
    assert model.samples_needed(0.2, 1000) == 1
    assert model.detectable(2, 5) == pytest.approx(1.7706, abs=1e-4)


def test_power_by_simulation():
    generator = np.random.default_rng(4)
    n, k, difference, rounds = 60, 8, 0.08, 2500
    chances = generator.uniform(0.1, 0.8, (rounds, n))
    shift = difference + 0.1 * generator.choice((-1.0, 1.0), (rounds, n))
    other = np.clip(chances + shift, 0, 1)
    first, second = generator.binomial(k, chances) / k, generator.binomial(k, other) / k
    d = second - first
    t = d.mean(axis=1) / (d.std(axis=1, ddof=1) / np.sqrt(n))
    found = np.mean(np.abs(t) > 2.001)
    model = PowerModel(
        between=float((other - chances).var(axis=1).mean()),
        within=float((chances * (1 - chances) + other * (1 - other)).mean()),
    )
    assert model.power(float((other - chances).mean()), n, k) == pytest.approx(found, abs=0.03)


def test_what_is_needed_is_enough_and_no_more():
    model = assumed_model(0.5)
    n = model.problems_needed(0.05, 5)
    assert model.power(0.05, n, 5) >= 0.8 > model.power(0.05, n - 1, 5)
    k = model.samples_needed(0.05, 500)
    assert model.power(0.05, 500, k) >= 0.8
    assert k == 1 or model.power(0.05, 500, k - 1) < 0.8
    # more samples cannot make up for too few problems
    assert model.samples_needed(0.026, 30) is None
    assert model.power(model.detectable(30, 5), 30, 5) == pytest.approx(0.8, abs=1e-6)


def test_power_model_from_data_and_bad_input():
    generator = np.random.default_rng(6)
    chances = generator.beta(1, 1, (400, 1))
    a, b = (generator.random((400, 16)) < chances for _ in range(2))
    model = estimated_model(a, b)
    assert model.between < 0.005
    assert model.within == pytest.approx(2 * float((chances * (1 - chances)).mean()), rel=0.1)
    with pytest.raises(KvreproError, match="same problems"):
        estimated_model(a, b[:10])
    with pytest.raises(KvreproError, match="spread"):
        assumed_model(0.95, spread=0.35)
    with pytest.raises(KvreproError, match="difference"):
        model.power(2.6, 30, 5)
