"""Replies that try to hang, crash, exhaust or escape; and the workers that contain them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import psutil
import pytest

from kvrepro.errors import KvreproError, RunError, UnknownNameError
from kvrepro.graders import Score, grade, grade_many, isolation
from kvrepro.graders.grading import equivalence

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
    "answer tags": "<answer>" * 10_000,
    "answer tags and a box": "<answer>" * 10_000 + r"\boxed{6}",
    "digits": "12" * 3000,
    "noughts": "0" * 20_000,
    "digits and dots": "1." * 10_000,
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


ENDLESS = r"</think>\boxed{\sum_{n=1}^{100000000000} \frac{1}{n^2}}"


def request(response, gold="0.5", kind="latex"):
    return {
        "response": response,
        "gold": gold,
        "kind": kind,
        "finish_reason": "stop",
        "options": {},
        "answer_start": -1,
        "grader": "strict",
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_endless_replies_are_killed_alone_and_order_is_kept(workers):
    good = [request(f"</think>\\boxed{{\\frac{{{i}}}{{7}}}}", f"\\frac{{{i}}}{{7}}") for i in range(1, 13)]
    wrong = [request("</think>\\boxed{2/3}")] * 2
    mixed = [*good[:4], request(ENDLESS, "5"), *good[4:8], request(ENDLESS, "5"), *wrong, *good[8:]]
    scores = isolation.score_all(mixed, workers, time_limit_s=1.5)
    expected = [("ok", True)] * 4 + [("grader_timeout", False)] + [("ok", True)] * 4
    expected += [("grader_timeout", False), ("ok", False), ("ok", False)] + [("ok", True)] * 4
    assert [(score.status, score.correct) for score in scores] == expected
    # what was read before the time was over is kept
    assert scores[4].answer == ENDLESS.removeprefix("</think>\\boxed{").removesuffix("}")
    assert scores[4].rule == "boxed:timeout"


def test_a_killed_worker_marks_its_item_and_is_restarted():
    half = request("</think>\\boxed{1/2}")
    worker = isolation.Worker()
    try:
        assert worker.score(half).correct
        worker.process.kill()
        worker.process.wait()
        assert worker.score(half).correct
        worker.process.stdin.write(b"this is no request\n")
        worker.process.stdin.flush()
        assert worker.score(half).status == "grader_error"
        assert worker.score(half) == Score(True, "ok", "1/2", "boxed:value")
    finally:
        worker.close()


def test_the_parent_never_reads_what_a_model_wrote():
    """It does not even load what reads: no pattern of ours can meet a reply there."""
    program = (
        "import sys\n"
        "from kvrepro.graders import grade, grade_many\n"
        "from kvrepro.graders.grading import equivalence\n"
        "items = [('x</think>\\\\boxed{73}', '073', 'integer'), ('</think>The answer is C.', 'C', 'choice')] * 50\n"
        "for grader in ('strict', 'dynts_compat'):\n"
        "    assert all(score.correct for score in grade_many(items, grader=grader))\n"
        "assert grade('</think>one half', '0.5', 'number').correct\n"
        "assert equivalence('latex')('1/2', '0.5') and equivalence('choice')('(B)', 'B')\n"
        "loaded = {m.removeprefix('kvrepro.graders.') for m in sys.modules if m.startswith('kvrepro.graders.')}\n"
        "assert loaded == {'grading', 'isolation', 'score'}, loaded\n"
        "assert not {'torch', 'sympy', 'math_verify', 'mpmath', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_a_worker_stays_alive_for_the_next_reply():
    grade("</think>5", "5", "integer")
    with isolation.worker() as first:
        process = first.process
    grade("</think>5", "5", "integer")
    with isolation.worker() as second:
        assert second is first
        assert second.process is process


def test_a_worker_that_cannot_start_is_an_error_and_no_verdict(monkeypatch):
    monkeypatch.setattr(isolation, "_idle", [])
    with monkeypatch.context() as without:
        without.setattr(sys, "executable", shutil.which("false"))
        with pytest.raises(RunError, match="did not start"):
            grade_many([("</think>5", "5", "integer")])
    with monkeypatch.context() as without:
        without.delattr(os, "fork")
        with pytest.raises(KvreproError, match="cannot fork"):
            grade("</think>5", "5", "integer")
    assert grade("</think>5", "5", "integer").correct


def test_threads_do_not_share_a_worker():
    with ThreadPoolExecutor(4) as threads:
        scores = list(threads.map(lambda i: grade(f"</think>\\boxed{{{i}}}", str(i), "integer"), range(40)))
    assert all(score.correct for score in scores)
    assert [score.answer for score in scores] == [str(i) for i in range(40)]


def _grade_in_a_fork(answers):
    answers.put(grade("</think>\\boxed{1/2}", "0.5", "latex").correct)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_gets_workers_of_its_own():
    assert grade("</think>\\boxed{1/2}", "0.5", "latex").correct
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=_grade_in_a_fork, args=(answers,))
    child.start()
    assert answers.get(timeout=60)
    child.join()
    # the child's end left the parent's workers alive
    with isolation.worker() as mine:
        assert mine.process.poll() is None


def test_workers_outlive_the_threads_that_started_them():
    items = [(f"</think>\\boxed{{{i}/7}}", f"\\frac{{{i}}}{{7}}", "latex") for i in range(1, 9)]
    assert all(score.correct for score in grade_many(items, workers=2))
    started = [worker.process for worker in isolation._idle if worker.process is not None]
    assert len(started) >= 2
    # the system takes a moment to act on the end of a thread
    time.sleep(0.5)
    assert all(process.poll() is None for process in started)


def test_an_interrupt_is_for_the_parent():
    half = request("</think>\\boxed{1/2}")
    with isolation.worker() as mine:
        assert mine.score(half).correct
        mine.process.send_signal(signal.SIGINT)
        assert mine.score(half).correct
        assert mine.process.poll() is None


def test_a_worker_whose_parent_was_killed_ends_by_itself():
    program = (
        "import os, threading, time\n"
        "from kvrepro.graders import isolation\n"
        "worker = isolation.Worker(); worker.start()\n"
        "print(worker.process.pid, flush=True)\n"
        f"request = {request(ENDLESS, '5')!r}\n"
        "threading.Thread(target=lambda: worker.score(request, 3600), daemon=True).start()\n"
        "time.sleep(0.2); os._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 9
    with contextlib.suppress(psutil.NoSuchProcess):
        left = psutil.Process(int(done.stdout))
        while left.status() != psutil.STATUS_ZOMBIE:
            assert time.time() - left.create_time() < 60, "the worker still runs a minute after its parent"
            time.sleep(0.1)


def test_votes_are_compared_in_the_worker_too():
    same = equivalence("latex")
    assert same("1/2", "0.5")
    assert not same("1/2", "(" * 700)


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


def test_an_interrupted_grading_leaves_nothing_that_reads_on(monkeypatch):
    slow = {"response": "</think>\\boxed{7}", "gold": "7", "kind": "integer"}
    begun = []

    def result(*_):
        while not begun:
            time.sleep(0.01)
        raise KeyboardInterrupt

    score = isolation.Worker.score
    monkeypatch.setattr(isolation.Worker, "score", lambda *a, **k: begun.append(1) or score(*a, **k))
    monkeypatch.setattr(Future, "result", result)
    with pytest.raises(KeyboardInterrupt):
        grade_many([slow] * 5_000, workers=2)
    monkeypatch.undo()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ThreadPoolExecutor")]
    assert len(begun) < 5_000
    assert grade_many([slow] * 3, workers=2)[0].correct
