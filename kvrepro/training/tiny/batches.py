"""Training batches of the tiny reasoners: repeats that form look-up, then worked problems."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from ...benchmarks.chains.language import ASSISTANT, BOS, EOS, PAD, THINK_START, USER, encode_pieces, vocabulary
from ...benchmarks.chains.problems import TASKS, ChainProblem, sample_problem, split_of

IGNORED = -100


def repeat_batch(generator: torch.Generator, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Random tokens that repeat with a period of 8-24: `(ids, labels)`, both `[rows, length]` int64.

    The loss falls on the repeats alone. Nothing can be learned here but "what followed this token last
    time", which is the look-up that chains need and that does not form from the chains themselves.
    """
    size = len(vocabulary())
    ids = torch.empty(rows, length, dtype=torch.int64)
    labels = torch.full((rows, length), IGNORED)
    for row in range(rows):
        period = int(torch.randint(8, 25, (), generator=generator))
        unit = torch.randperm(size, generator=generator)[:period]
        ids[row] = unit.repeat(length // period + 1)[:length]
        labels[row, period:] = ids[row, period:]
    return ids, labels


def encode_example(problem: ChainProblem, rng: random.Random) -> tuple[list[int], int]:
    """Ids of prompt and reply as the chat template renders them, and the length of the prompt."""
    prompt = [BOS, USER, *problem.question_pieces(), ASSISTANT, THINK_START, "\n"]
    return encode_pieces([*prompt, *problem.reply_pieces(rng), EOS]), len(prompt)


def problem_batch(rng: random.Random, n_tokens: int, sizes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Worked problems of similar size, padded right: `(ids, labels)` of about `n_tokens`, loss on the reply.

    Args:
        sizes: smallest and largest number of variables; one batch spans three neighbouring sizes.
    """
    smallest = rng.randint(sizes[0], max(sizes[0], sizes[1] - 2))
    examples: list[tuple[list[int], int]] = []
    width = 0
    while not examples or (len(examples) + 1) * width <= n_tokens:
        problem = sample_problem(rng, rng.randint(smallest, min(smallest + 2, sizes[1])), rng.choice(TASKS))
        if split_of(problem.question()) != "train":
            continue
        examples.append(encode_example(problem, rng))
        width = max(width, len(examples[-1][0]))
    ids = torch.full((len(examples), width), vocabulary()[PAD])
    labels = torch.full((len(examples), width), IGNORED)
    for row, (tokens, n_prompt) in enumerate(examples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, n_prompt : len(tokens)] = ids[row, n_prompt : len(tokens)]
    return ids, labels
