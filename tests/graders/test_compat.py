"""The compat grader reproduces DynTS' known flaws, and strict does not have them."""

from __future__ import annotations

import pytest

from kvrepro.graders import grade

FLAWS = [
    ("</think>\\boxed{2700}", "27", "integer", "the gold times 100 passes"),
    ("</think>\\boxed{0.27}", "27", "integer", "the gold over 100 passes"),
    ("</think>\\boxed{8164960}", "8164961", "integer", "relative tolerance 1e-4"),
    ("</think>\\boxed{3159.2}", "3159", "integer", "relative tolerance 1e-4"),
    ("I think \\boxed{27} but", "27", "integer", "an unfinished thought is graded"),
    ("</think>I tried 26 and 27", "27", "integer", "the last number of the text counts"),
    ("</think>It is a mass", "A", "choice", "the article is a letter"),
    ("</think>The answer is A is wrong, so D", "A", "choice", "the first letter after the phrase"),
]


@pytest.mark.parametrize(("response", "gold", "kind", "flaw"), FLAWS, ids=[flaw[3] for flaw in FLAWS])
def test_flaws_are_kept_in_compat_only(response, gold, kind, flaw):
    assert grade(response, gold, kind, grader="dynts_compat").correct, flaw
    reason = "length" if "unfinished" in flaw else "stop"
    assert not grade(response, gold, kind, finish_reason=reason).correct, flaw


@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        ("27", "27", True),
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", r"\frac12", True),
        ("28", "27", False),
        ("(1, 2)", "(1,2)", True),
        (r"x^2-1", "(x-1)(x+1)", True),
        (r"90^\circ", "90", True),
        ("x=5", "5", True),
    ],
)
def test_compat_agrees_on_ordinary_answers(answer, gold, correct):
    assert grade(f"</think>\\boxed{{{answer}}}", gold, "latex", grader="dynts_compat").correct is correct


def test_compat_takes_what_follows_the_last_box_command_even_in_prose():
    reply = "</think>\\boxed{26}, in \\boxed notation"
    assert grade(reply, "26", "integer").correct
    assert grade(reply, "26", "integer", grader="dynts_compat").answer == "notation"
