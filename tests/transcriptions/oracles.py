"""Bounds that look into the future of a finished trace."""

from __future__ import annotations

import numpy as np

from .frame import PerHead, Rule
from .pieces import Row, attend


def answer_labels(row: Row, first_answer: int) -> list[float]:
    """Mean attention of the answer's queries, diagonal zeroed, over layers and heads, full cache."""
    n = len(row.tokens)
    found = [0.0] * n
    count = len(row.layers) * len(row.q[0]) * (n - first_answer)
    for layer in row.layers:
        for q_head in range(len(row.q[layer])):
            for i in range(first_answer, n):
                for j, a in attend(row, layer, q_head, i, range(i + 1)).items():
                    if i != j:
                        found[j] += a / count
    return found


def future_block_maxima(row: Row, block: int) -> list:
    """`[blocks][L][H][n]`, mean over group and queries of a block, then the maximum over it and later blocks."""
    n = len(row.tokens)
    blocks = []
    for start in range(0, n, block):
        queries = range(start, min(start + block, n))
        one = np.zeros((len(row.layers), len(row.heads), n))
        for layer in row.layers:
            for head in row.heads:
                for q_head in row.q_heads(head):
                    for i in queries:
                        for j, a in attend(row, layer, q_head, i, range(i + 1)).items():
                            one[layer, head, j] += a / (row.group * len(queries))
        blocks.append(one)
    for b in range(len(blocks) - 2, -1, -1):
        blocks[b] = np.maximum(blocks[b], blocks[b + 1])
    return blocks


class OracleAnswer(Rule):
    def scores(self, t, held):
        return {j: self.o.labels[j] for j in held[0][0]}


class OracleFuture(PerHead):
    def one(self, t, layer, head, mine):
        first = (t + 1) // self.o.block
        if first >= len(self.o.future_maxima):
            return dict.fromkeys(mine, 0.0)
        return {j: float(self.o.future_maxima[first][layer, head, j]) for j in mine}
