"""Full-cache traces for the importance predictor: generated, kept only if they are right."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .completions import OK
from .errors import KvreproError
from .generation import generate
from .graders import grade
from .tiny.problems import TASKS, sample_problem
from .tiny.split import split_of
from .tokens import ThinkTags, render_prompt, reply_text


@dataclass(frozen=True)
class Trace:
    """A correct reply: prompt and reply ids, where the thought begins and where the answer begins."""

    token_ids: list[int]
    thinking_from: int
    answer_from: int


def tiny_questions(split: str, n_problems: int, sizes: tuple[int, int], seed: int) -> list[tuple[str, str, str]]:
    """`(question, gold, kind)` of one split of the generated problems, never of the benchmarks' split."""
    if split not in ("train", "held_out"):
        raise KvreproError(f"split={split!r}: traces come from 'train' or 'held_out', never from a benchmark")
    rng, questions = random.Random(seed), []
    while len(questions) < n_problems:
        problem = sample_problem(rng, rng.randint(*sizes), rng.choice(TASKS))
        if split_of(problem.question()) == split:
            kind = "choice" if problem.task == "choice" else "integer"
            questions.append((problem.question(), problem.gold, kind))
    return questions


def generate_traces(
    model, tokenizer, questions: list[tuple[str, str, str]], *, seed: int = 0, max_new_tokens: int = 1024,
    batch_rows: int = 64,
) -> tuple[list[Trace], dict[str, int]]:  # fmt: skip
    """One full-cache reply per question; wrong, unfinished and answerless ones are dropped and counted.

    Source: METHODS.md section 3.1 (one think span, correct, first sample per question).
    """
    think = ThinkTags.of(tokenizer)
    texts = [question for question, _, _ in questions]
    completions = generate(
        model, tokenizer, texts, "full", seed=seed, max_new_tokens=max_new_tokens, batch_rows=batch_rows
    )
    counts = {"generated": len(questions), "unfinished": 0, "wrong": 0, "no_answer": 0, "kept": 0}
    traces = []
    for (question, gold, kind), completion in zip(questions, completions, strict=True):
        text = reply_text(tokenizer, completion.token_ids)
        spans = sum(think.closes(completion.token_ids[: i + 1]) > 0 for i in range(len(completion.token_ids)))
        if completion.status != OK or spans != 1:
            counts["unfinished"] += 1
        elif not completion.n_answer_tokens:
            counts["no_answer"] += 1
        elif not grade(text, gold, kind).correct:
            counts["wrong"] += 1
        else:
            counts["kept"] += 1
            prompt = render_prompt(tokenizer, question)
            answer_from = len(prompt) + completion.n_thinking_tokens
            traces.append(Trace([*prompt, *completion.token_ids], len(prompt), answer_from))
    return traces, counts
