"""Replies that try to hang, crash, exhaust or escape; and the workers that contain them."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.graders import Score, grade, grade_many
from kvrepro.graders.pool import Worker, compare_all

N = 100_000
HOSTILE = {
    "power tower": r"\boxed{9^{9^{9^{9^9}}}}",
    "plain tower": r"\boxed{9^9^9^9^9}",
    "factorial of a factorial": r"\boxed{(((9!)!)!)!}",
    "large binomial": r"\boxed{\binom{10^9}{5\cdot 10^8}}",
    "long number": r"\boxed{" + "1" * N + "}",
    "braces": r"\boxed{" + "{" * N + "}" * N + "}",
    "open braces": "{" * N + r"\boxed{5",
    "boxes in boxes": r"\boxed{" * 5000 + "5" + "}" * 5000,
    "repeated boxes": r"\boxed{6} " * 20_000,
    "shotgun": r"\boxed{" + ",".join(map(str, range(300))) + "}",
    "code": r"\boxed{__import__('os').system('touch PWNED')}",
    "code in the text": "</think>import os; os.system('touch PWNED')",
    "attributes": r"\boxed{().__class__.__bases__[0].__subclasses__()}",
    "NUL bytes": "\x00" * N + r"\boxed{6}",
    "surrogates": "\ud800\\boxed{6\ud800}",
    "parentheses": r"\boxed{" + "(" * 700 + "1" + ")" * 700 + "}",
    "fractions": r"\boxed{" + r"\frac{1}{1+" * 150 + "1" + "}" * 150 + "}",
    "roots": r"\boxed{" + r"\sqrt{" * 200 + "2" + "}" * 200 + "}",
    "asterisks": "*" * N,
    "dollars": "$" * N,
    "newlines": "\n" * N + "6",
    "mixed markup": "*$" * (N // 2),
    "announcements": "the answer is " * 20_000,
    "options": "A) x\n" * 20_000,
    "options in brackets": "(A) x " * 20_000,
    "hedges": "So (C " * 20_000,
    "spaces": " " * N + "the answer is" + " " * N,
    "thought ends": "</think>" * 20_000 + r"\boxed{6}",
    "digits with commas": r"\boxed{" + "1," * 700 + "}",
    "percent signs": r"\boxed{5" + "%" * 1000 + "}",
    "letters": r"\boxed{" + "α" * 700 + "}",
    "units": r"\boxed{5 " + "cm " * 400 + "}",
    "equals signs": r"\boxed{" + "x=" * 700 + "1}",
    "huge exponent": r"\boxed{1e999999999}",
    "undefined": r"\boxed{\frac{0}{0}}",
    "arrangements": r"\boxed{P(10^9,5)}",
    "quantities": "So it takes " + "3 hours " * 700,
    "quantities in a box": r"\boxed{" + "3 h " * 350 + "}",
    "nested choices": r"\boxed{" + r"{1 \choose " * 200 + "1" + "}" * 200 + "}",
    "common multiple": r"\boxed{\text{lcm}(" + ",".join(str(10**6 + i) for i in range(150)) + ")}",
    "integers of a builder": r"\boxed{\{x\in\mathbb{Z}: 0<x<10^9\}}",
    "families": r"\boxed{" + "k" * 1000 + r", k\in\mathbb{Z}}",
    "unit vectors": r"\boxed{" + "i+j+k+" * 200 + "i}",
    "verdict lines": "B: \n \n" * 20_000,
    "number words": "one and a " * 20_000,
    "arrows": "→ " * 20_000,
}


@pytest.mark.parametrize(("kind", "gold"), [("integer", "5"), ("latex", r"\frac{14}{3}"), ("choice", "D")])
@pytest.mark.parametrize("grader", ["strict", "dynts_compat"])
def test_hostile_replies_are_only_wrong(kind, gold, grader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = grade_many([(reply, gold, kind) for reply in HOSTILE.values()], workers=1, grader=grader)
    verdicts = {name: score.correct for name, score in zip(HOSTILE, scores, strict=True)}
    # these do say 5, if oddly; DynTS also drops every percent sign and unit
    lenient = {"boxes in boxes", "open braces"} | ({"percent signs", "units"} if grader == "dynts_compat" else set())
    assert {name for name, correct in verdicts.items() if correct} <= lenient
    assert list(tmp_path.iterdir()) == []


def test_an_endless_item_is_killed_alone_and_order_is_kept():
    endless = r"\boxed{\sum_{n=1}^{100000000000} \frac{1}{n^2}}"
    requests = [
        {"extraction": {"status": "ok", "answer": answer, "rule": "boxed", "parts": []}, "gold": gold, "kind": "latex",
         "grader": "strict"}
        for answer, gold in [("1/2", "0.5"), (endless[7:-1], "5"), ("2/3", "0.5"), (r"\frac{1}{4}", "0.25")]
    ]  # fmt: skip
    scores = compare_all(requests, workers=1, time_limit_s=1.5)
    assert [score.status for score in scores] == ["ok", "grader_timeout", "ok", "ok"]
    assert [score.correct for score in scores] == [True, False, False, True]


def test_a_killed_worker_marks_its_item_and_is_restarted():
    worker = Worker()
    request = {
        "extraction": {"status": "ok", "answer": "1/2", "rule": "boxed", "parts": []}, "gold": "0.5", "kind": "latex",
        "grader": "strict",
    }  # fmt: skip
    try:
        assert worker.compare(request).correct
        worker.process.kill()
        worker.process.wait()
        assert worker.compare(request).correct
        worker.process.stdin.write(b"this is no request\n")
        worker.process.stdin.flush()
        assert worker.compare(request).status == "grader_error"
        assert worker.compare(request) == Score(True, "ok", "1/2", "boxed:value")
    finally:
        worker.close()


def test_plain_replies_need_neither_sympy_nor_torch_nor_a_process():
    program = (
        "import sys\n"
        "from kvrepro.graders import grade_many\n"
        "import subprocess; subprocess.Popen = None\n"
        "items = [('x</think>\\\\boxed{73}', '073', 'integer'), ('</think>The answer is C.', 'C', 'choice')] * 500\n"
        "assert all(score.correct for score in grade_many(items))\n"
        "assert not {'torch', 'sympy', 'math_verify', 'mpmath', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_thousand_ordinary_replies_take_seconds():
    thought = "Let me think about it. " * 400
    items = [
        (f"{thought}</think>So it is $\\boxed{{\\frac{{{i}}}{{7}}}}$.", f"\\frac{{{i}}}{{7}}", "latex")
        for i in range(1000)
    ]
    started = time.monotonic()
    scores = grade_many(items, workers=1)
    print(f"{time.monotonic() - started:.1f} s")
    assert all(score.correct for score in scores)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("x", "1", "number line"), UnknownNameError),
        (("x", "", "integer"), KvreproError),
        ((None, "1", "integer"), KvreproError),
    ],
)
def test_requests_that_make_no_sense_are_errors(arguments, error):
    with pytest.raises(error):
        grade(*arguments)


def test_unknown_graders_and_finish_reasons_are_errors():
    with pytest.raises(UnknownNameError, match="strict"):
        grade("x", "1", "integer", grader="lenient")
    with pytest.raises(UnknownNameError, match="length"):
        grade("x", "1", "integer", finish_reason="eos")
    with pytest.raises(KvreproError, match="item 0"):
        grade_many([{"response": "x", "gold": "1"}])
    assert grade_many([]) == []
