"""The decode loop of one row, and what every rule shares: when it is due, what is pinned, what stays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

from .pieces import Row


@dataclass
class Rule:
    """A method: `step` sees every decode step, `scores` ranks at an eviction.

    `o` holds the numbers of the run: budget, window, ratio, every, protocol and the method's own.
    """

    row: Row
    o: SimpleNamespace
    shared: bool = True  # one list for all layers and heads
    pins_question: bool = False
    pins_answer: bool = False
    sinks: int = 0
    by_score: bool = False  # slots in the order of their scores, as some originals leave them; else of time
    number: int = 0  # evictions so far
    last_eviction: int | None = None  # decode step of the last one

    def __post_init__(self) -> None:
        """States start here."""

    def step(self, t: int, held) -> None:
        """A token was fed at position t; `held[l][h]` includes it."""

    def scores(self, t: int, held) -> list[list[dict]]:
        """`[L][H]` (or a single dictionary where all share) of position to score, higher stays."""
        raise NotImplementedError

    def room(self, n: int, candidates: list[int]) -> int:
        """Candidates that stay."""
        if self.o.protocol == "as_published" and self.o.ratio is not None:
            return math.floor(self.o.ratio * (n - self.o.window) + 1e-9)
        return self.o.budget - self.o.window

    def is_due(self, n: int, n_before: int) -> bool:
        """DynTS' rule for its variants, else: the budget and one period are full."""
        if self.o.protocol == "as_published" and self.o.dynts_loop:
            return n_before >= self.o.budget and n > self.o.window
        return n >= self.o.budget + self.o.every

    def is_pinned(self, j: int) -> bool:
        return (
            j < self.sinks
            or (self.pins_question and j < self.row.n_prompt)
            or (self.pins_answer and j >= self.row.answer_from)
        )

    def keep(self, t: int, held) -> list[list[list[int]]]:
        """Positions that stay, `[L][H]`, ascending."""
        found = self.scores(t, held)
        kept = []
        for layer in self.row.layers:
            kept.append([])
            for head in self.row.heads:
                mine = held[layer][head]
                window = self.o.window
                candidates, recent = mine[: len(mine) - window], mine[len(mine) - window :]
                s = found if isinstance(found, dict) else found[layer][head]
                ranked = sorted(candidates, key=lambda j: (-math.inf if self.is_pinned(j) else -s[j], j))
                best = ranked[: self.room(len(mine), candidates)]
                kept[-1].append((best if self.by_score else sorted(best)) + recent)
        return kept


def simulate(rule: Rule) -> list[tuple[int, list[list[list[int]]]]]:
    """The whole decode loop of one row; returns (position of the step, what stayed) per eviction."""
    row, found = rule.row, []
    held = [[list(range(row.n_prompt)) for _ in row.heads] for _ in row.layers]
    n_before = 0
    for t in range(row.n_prompt, len(row.tokens)):
        for layer in held:
            for mine in layer:
                mine.append(t)
        rule.step(t, held)
        n = len(held[0][0])
        if rule.is_due(n, n_before):
            held = rule.keep(t, held)
            found.append((t, [[list(mine) for mine in layer] for layer in held]))
            rule.number += 1
            rule.last_eviction = t - row.n_prompt
            n = len(held[0][0])
        n_before = n
    return found


class PerHead(Rule):
    """Scores of each layer and KV head on its own: `one(t, layer, head, mine)`."""

    def scores(self, t, held):
        return [[self.one(t, layer, head, held[layer][head]) for head in self.row.heads] for layer in self.row.layers]

    def candidates(self, mine):
        return mine[: len(mine) - self.o.window]
