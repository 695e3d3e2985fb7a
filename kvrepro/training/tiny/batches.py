"""Training batches of the tiny reasoners: repeats that form look-up, then worked problems."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ...benchmarks.chains.language import ASSISTANT, BOS, EOS, PAD, THINK_START, USER, encode_pieces, vocabulary
from ...benchmarks.chains.problems import TASKS, ChainProblem, sample_problem, split_of

IGNORED = -100
MOST_HIDDEN = 0.8  # of a row's tokens, prompt and newest excepted, in a row that does not see everything


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


@dataclass(frozen=True)
class Example:
    """A problem and its reply, as the chat template renders them; all lists have one entry per token.

    Attributes:
        labels: what is learned: `IGNORED` for the prompt and for mistakes.
        weights: of the loss.
    """

    ids: list[int]
    labels: list[int]
    weights: list[float]


def encode_example(
    problem: ChainProblem, rng: random.Random, mistake_rate: float = 0.0, turn_weight: float = 1.0
) -> Example:
    """What is wrong in a thought is read and never learned, so that a model corrects mistakes and does not make them.

    Args:
        turn_weight: of the tokens that begin a pass and of the thought's end.
    """
    prompt = encode_pieces([BOS, USER, *problem.question_pieces(), ASSISTANT, THINK_START, "\n"])
    worked = problem.worked_reply(rng, mistake_rate)
    reply = encode_pieces([*worked.pieces, EOS])
    labels = [*[IGNORED] * len(prompt), *reply]
    weights = [1.0] * len(labels)
    for place in worked.mistakes:
        labels[len(prompt) + place] = IGNORED
    for place in worked.turns:
        weights[len(prompt) + place] = turn_weight
    return Example([*prompt, *reply], labels, weights)


def sight(
    generator: torch.Generator, ids: Tensor, labels: Tensor, blind_share: float, windows: tuple[int, int]
) -> Tensor:
    """What each token attends to, `[rows, 1, width, width]` bool: all before it, or what an eviction would have left.

    A row of which nothing was ever hidden gives a model that finds a definition or a value in any of its copies, and
    gets lost where only parts of them are left. So a part of the rows sees the prompt, the newest tokens, and of those
    between them a share: drawn by token, by what the token is, or by a mixture, as methods choose.

    Args:
        blind_share: of the rows, how many do not see everything.
        windows: fewest and most of the newest tokens that such a row sees, drawn per row.
    """
    rows, width = ids.shape
    places = torch.arange(width)
    age = places[:, None] - places
    seen = (age >= 0).expand(rows, -1, -1).clone()
    is_prompt = (labels == IGNORED).cummin(1).values
    for row in range(rows):
        draw = torch.rand(4, generator=generator)
        if draw[0] >= blind_share:
            continue
        by_kind = torch.rand(len(vocabulary()), generator=generator)[ids[row]]
        rank = draw[1] * by_kind + (1 - draw[1]) * torch.rand(width, generator=generator)
        is_kept = is_prompt[row] | (rank >= rank.quantile(MOST_HIDDEN * draw[2]))
        window = windows[0] + draw[3] * (windows[1] - windows[0])
        seen[row] &= is_kept | (age < window)
    return seen[:, None]


def problem_batch(
    rng: random.Random,
    n_tokens: int,
    sizes: tuple[int, int],
    most_passes: int = 0,
    mistake_rate: float = 0.0,
    turn_weight: float = 1.0,
    longest: int = 2048,
) -> tuple[Tensor, Tensor, Tensor]:
    """Worked problems of similar length, padded right, loss on the reply.

    Args:
        sizes: smallest and largest number of variables; one batch spans three neighbouring sizes.
        most_passes: passes of verification, drawn from 0 to so many for a batch, whose rest takes one less where an
            example would be too long.
        mistake_rate: of the lines that a later pass corrects, how many hold a mistake.
        turn_weight: in the loss, of the tokens that begin a pass and of the thought's end.
        longest: tokens that an example may have.

    Returns:
        `(ids, labels, weights)`, each `[rows, width]` of about `n_tokens`; int64, int64, float32.

    Raises:
        ValueError: a chain without verification is too long.
    """
    smallest = rng.randint(sizes[0], max(sizes[0], sizes[1] - 2))
    passes = rng.randint(0, most_passes) if most_passes else 0
    examples: list[Example] = []
    width = 0
    while not examples or (len(examples) + 1) * width <= n_tokens:
        n_variables = rng.randint(smallest, min(smallest + 2, sizes[1]))
        problem = sample_problem(rng, n_variables, rng.choice(TASKS), passes)
        if split_of(problem.question()) != "train":
            continue
        example = encode_example(problem, rng, mistake_rate, turn_weight)
        if len(example.ids) > longest:
            if not passes:
                raise ValueError(f"longest={longest}: a chain of {n_variables} variables has {len(example.ids)} tokens")
            passes -= 1
            continue
        examples.append(example)
        width = max(width, len(example.ids))
    ids = torch.full((len(examples), width), vocabulary()[PAD])
    labels = torch.full((len(examples), width), IGNORED)
    weights = torch.ones(len(examples), width)
    for row, example in enumerate(examples):
        for target, values in ((ids, example.ids), (labels, example.labels), (weights, example.weights)):
            target[row, : len(values)] = torch.tensor(values)
    return ids, labels, weights
