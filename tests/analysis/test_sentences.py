"""What the notebooks on the predictor and its observations conclude from frames."""

from __future__ import annotations

import pandas as pd
import pytest

from kvrepro.analysis.kept_thoughts import part_sentences
from kvrepro.analysis.observations import part_names, share_sentence
from kvrepro.analysis.predictor_effect import SHIPPED, effect_sentences, fidelity_sentences
from kvrepro.models.tokens import ThinkTags
from kvrepro.training.importance.ranking import ranking_sentences, recipe_sentence


def answers(right, share=0.2, n=12):
    """Rows of `answers_from_parts`: choice of scores and selection -> how many of n are right."""
    return pd.DataFrame(
        {"problem_id": i, "scores": scores, "selection": selection, "share": share, "correct": i < count, "n_kept": 3}
        for (scores, selection), count in right.items()
        for i in range(n)
    )


def test_a_part_of_the_thought_is_compared_on_the_same_problems_and_holm_adjusted():
    counts = {("label", "top"): 12, ("label", "random"): 3, ("predicted", "top"): 12}
    first, other, predicted = part_sentences(pd.concat([answers(counts), answers(counts, share=0.5)]), 0.2)
    assert first.startswith("From the most attended 20 % of the thought 100.0 % [73.5, 100.0] of 12 answers are right;")
    assert predicted.startswith("top 20 % of the thought and predicted top 20 % of the thought cannot be told apart")
    assert other.startswith("top 20 % of the thought beats random 20 % of the thought: +75.0 points")
    # 0.000128 of the comparison alone, twice
    assert "p < 0.001" in other


def test_few_traces_are_said_to_say_nothing():
    counts = {("label", "top"): 6, ("label", "bottom"): 0}
    assert "6 problems say nothing" in part_sentences(answers(counts, n=6), 0.2)[1]
    assert len(part_sentences(answers(counts, n=1), 0.2)) == 1


def test_the_share_of_attention_is_told_with_how_many_times_its_part_it_is():
    curve = pd.DataFrame({"share": [0.1, 0.2], "mass_mean": [0.3, 0.43], "mass_lo": 0.42, "mass_hi": 0.44})
    assert share_sentence(curve.assign(n_traces=16), 0.2) == (
        "The most attended 20 % of the thinking tokens carry 43.0 % [42.0, 44.0] of the answer's attention to them, "
        "2.1 times their share (16 traces)."
    )
    assert share_sentence(curve.assign(n_traces=7), 0.2, "tokens").endswith("(7 traces; so few say little).")


def test_a_model_that_does_not_think_has_no_thinking_tokens():
    assert part_names(ThinkTags((7,), "</think>")) == ("thinking tokens", "thought")
    assert part_names(ThinkTags((), None)) == ("tokens before the answer", "reply before the answer")


def effect(values):
    rows = [{"kind": kind, "budget_tokens": budget, "by_problem": v} for (kind, budget), v in values.items()]
    return pd.DataFrame([{"kind": "full cache", "budget_tokens": None, "by_problem": {}}, *rows])


def test_the_trained_head_is_compared_at_every_budget_with_adjusted_p_values():
    right, wrong = ({i: float(i % 10 < n) for i in range(20)} for n in (8, 2))
    texts = effect_sentences(
        effect({(SHIPPED, 176): right, ("random", 176): wrong, (SHIPPED, 240): right, ("random", 240): right})
    )
    assert texts[0].startswith("dynts at 176 tokens beats random: +60.0 points")
    assert texts[1].startswith("dynts at 240 tokens and random cannot be told apart: +0.0 points")
    assert effect_sentences(effect({(SHIPPED, 176): {1: 1.0}, ("random", 176): {1: 0.0}})) == [
        "A single problem says nothing."
    ]


def test_fidelity_is_told_from_the_closest_on():
    means = {"dynts": 0.96, "random": 0.98}
    bent = pd.DataFrame(
        {
            "kind": k,
            "budget_tokens": 176,
            "measure": "agrees",
            "mean": m,
            "lo": m - 0.01,
            "hi": m + 0.01,
            "n_traces": 12,
        }
        for k, m in means.items()
    )
    assert fidelity_sentences(bent) == [
        "At 176 tokens the most likely token is the full cache's in 98.0 % [97.0, 99.0] (random), "
        "96.0 % [95.0, 97.0] (dynts): 12 known replies."
    ]
    assert "so few say little" in fidelity_sentences(bent.assign(n_traces=4))[0]


def ranked(**taus):
    return pd.DataFrame(
        {
            "predictor": name,
            "problem_id": i,
            "kendall_tau": tau + 0.01 * (i % 2),
            "top20_overlap": 0.6,
            "top20_mass_found": 0.8,
        }
        for name, tau in taus.items()
        for i in range(10)
    )


@pytest.mark.parametrize(
    ("best", "end"),
    [
        (0.5, "beats the best score without a hidden state (identity) by a tau of 0.200 [0.200, 0.200]."),
        (0.7, "is not told from the best score without a hidden state (identity): 0.000 [0.000, 0.000] in tau."),
    ],
)
def test_a_ranking_is_told_in_pairs_and_beside_the_best_that_sees_nothing(best, end):
    texts = ranking_sentences(ranked(head=0.7, random=0.0, identity=best), "head")
    assert texts[0].startswith(
        "On 10 held-out traces the head orders the thinking tokens with a Kendall tau of 0.705 ["
    )
    assert "first in about 85 of 100 pairs" in texts[0]
    assert texts[1].startswith("It finds 60.0 [60.0, 60.0] % of the true top 20 %")
    assert texts[2] == f"It {end}"
    assert len(ranking_sentences(ranked(head=0.7), "head")) == 2


def test_recipes_whose_intervals_overlap_are_named():
    taus = {"a": (0.5, 0.49, 0.51), "b": (0.7, 0.68, 0.72), "c": (0.67, 0.65, 0.69)}
    frame = pd.DataFrame([(n, *v) for n, v in taus.items()], columns=["recipe", "mean", "lo", "hi"])
    assert recipe_sentence(frame.assign(metric="kendall_tau")) == (
        "Of 3 recipes b has the highest Kendall tau, 0.700 [0.680, 0.720]; intervals overlap with c; a has the lowest, "
        "0.500 [0.490, 0.510]."
    )
