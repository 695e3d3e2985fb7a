"""What a comparison is said to have shown follows from its numbers."""

from __future__ import annotations

import pytest

from kvrepro.scores.sentences import difference_sentence, p_text
from kvrepro.scores.statistics import paired_comparison

RIGHT, WRONG = [1.0] * 20, [0.0] * 20
MIXED = [1.0, 0.0] * 10


@pytest.mark.parametrize(
    ("first", "second", "begins"),
    [
        (RIGHT, WRONG, "dynts beats random: +100.0 points ["),
        (WRONG, RIGHT, "dynts loses to random: -100.0 points ["),
        (MIXED, MIXED, "dynts and random cannot be told apart: +0.0 points ["),
        (RIGHT[:4], WRONG[:4], "dynts minus random: +100.0 points ["),
    ],
)
def test_the_sentence_says_who_leads_or_that_nothing_can_be_said(first, second, begins):
    found = paired_comparison(first, second)
    sentence = difference_sentence("dynts", "random", found)
    assert sentence.startswith(begins)
    basis = "4 problems say nothing" if len(first) == 4 else f"p {p_text(found.p_value)}, {len(first)} problems"
    assert sentence.endswith(f"{basis}.")


def test_an_adjusted_p_value_decides():
    found = paired_comparison(RIGHT, MIXED)
    assert "beats" in difference_sentence("a", "b", found)
    assert "cannot be told apart" in difference_sentence("a", "b", found, p_value=0.2)


def test_a_few_problems_that_differ_tell_nothing_apart():
    five, six = ([1.0] * n + [0.0] * (12 - n) for n in (5, 6))
    found = paired_comparison(five, [0.0] * 12)
    assert found.p_value < 0.05
    assert difference_sentence("a", "b", found).endswith("only 5 of 12 problems differ, too few to tell.")
    assert difference_sentence("a", "b", paired_comparison(six, [0.0] * 12)).startswith("a beats b: ")


def test_no_interval_passes_what_a_difference_of_scores_can_be():
    found = paired_comparison([0.0] * 10, [0.0, *[1.0] * 9])
    assert found.lo < -1 and "[-100.0, " in difference_sentence("a", "b", found)


def test_small_p_values_are_not_printed_as_zero():
    assert (p_text(1e-9), p_text(0.04321)) == ("< 0.001", "= 0.0432")
