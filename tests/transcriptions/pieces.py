"""Rows, attention, redundancy, rotation and noise, a number at a time."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np

MASK = 2**64 - 1


@dataclass
class Row:
    """One sequence: `q` `[L][Hq]` of `[n, d]`, `k`, `v` `[L][H]` of `[n, d]`, float64, rotated."""

    q: list
    k: list
    v: list
    tokens: list[int]
    n_prompt: int
    answer_from: int
    importance: list[float] | None = None
    problem_id: str = "0"
    scale: float | None = None  # of dot products; 1 / sqrt(d) unless the model has its own
    interleaved: bool = False  # RoPE turns channels 2f and 2f + 1 together, else f and f + d/2
    still: tuple[int, ...] = ()  # layers without RoPE

    @property
    def layers(self) -> range:
        return range(len(self.k))

    @property
    def heads(self) -> range:
        return range(len(self.k[0]))

    @property
    def group(self) -> int:
        return len(self.q[0]) // len(self.k[0])

    def q_heads(self, head: int) -> range:
        """Query heads that read a KV head."""
        return range(head * self.group, (head + 1) * self.group)

    @property
    def factor(self) -> float:
        """On dot products of queries and keys."""
        return 1 / math.sqrt(self.k[0][0].shape[1]) if self.scale is None else self.scale

    def rotation(self, layer: int, position: int) -> np.ndarray:
        """RoPE of a layer as a d x d matrix."""
        d = self.k[0][0].shape[1]
        return rotation(0 if layer in self.still else position, d, interleaved=self.interleaved)


def softmax(logits: dict) -> dict:
    top = max(logits.values())
    weights = {j: math.exp(x - top) for j, x in logits.items()}
    total = sum(weights.values())
    return {j: w / total for j, w in weights.items()}


def logits_of(row: Row, layer: int, q_head: int, i: int, visible) -> dict:
    query, keys = row.q[layer][q_head][i], row.k[layer][q_head // row.group]
    return {j: float(query @ keys[j]) * row.factor for j in visible}


def attend(row: Row, layer: int, q_head: int, i: int, held) -> dict:
    """Attention of the query at position i over what is held, itself included."""
    return softmax(logits_of(row, layer, q_head, i, [j for j in held if j <= i]))


def mean_attention(row: Row, i: int, held) -> dict:
    """Mean over layers and query heads, for slots that all of them share (D: `s = 1/(L Hq) sum_l sum_h A`)."""
    total = dict.fromkeys(held, 0.0)
    for layer in row.layers:
        for q_head in range(len(row.q[layer])):
            for j, a in attend(row, layer, q_head, i, held).items():
                total[j] += a
    return {j: a / (len(row.layers) * len(row.q[0])) for j, a in total.items()}


def last_queries(row: Row, t: int, w: int) -> range:
    return range(max(0, t - w + 1), t + 1)


def pool(scores: dict, kernel: int, kind: str) -> dict:
    """Stride 1 in the order of `scores`; maxima ignore what lies beyond the edges, averages count it as 0."""
    order, half, found = list(scores), kernel // 2, {}
    for index, j in enumerate(order):
        around = [scores[order[x]] for x in range(index - half, index + half + 1) if 0 <= x < len(order)]
        found[j] = max(around) if kind == "max" else sum(around) / kernel
    return found


def r_kv_redundancy(keys, positions: list[int], threshold: float, *, zero_first_column: bool = True) -> dict:
    """Softmax of the mean cosine of each column, the last similar one of each row zeroed."""
    n = len(positions)
    unit = [np.asarray(keys[j]) / np.linalg.norm(keys[j]) for j in positions]
    columns = [0.0] * n
    for i in range(n):
        row = [0.0 if i == j else float(unit[i] @ unit[j]) for j in range(n)]
        similar = [j for j in range(n) if row[j] > threshold]
        if similar:
            row[max(similar)] = 0.0
        elif zero_first_column:
            row[0] = 0.0
        for j in range(n):
            columns[j] += row[j] / n
    return softmax({positions[j]: columns[j] for j in range(n)})


def recurrence_score(mri: float, delta: float) -> float:
    def over(x: float) -> float:
        return 2 / (1 + math.exp(x)) if x < 700 else 0.0

    return over(1 + delta / (mri + 1e-5)) + (over(mri - 1) if mri > 0 else 0.0)


def channel_pair(f: int, d: int, interleaved: bool) -> tuple[int, int]:
    """The two channels that turn together at frequency f."""
    return (2 * f, 2 * f + 1) if interleaved else (f, f + d // 2)


def rotation(position: int, d: int, base: float = 10000.0, *, interleaved: bool = False) -> np.ndarray:
    """RoPE as a d x d matrix."""
    matrix = np.zeros((d, d))
    for f in range(d // 2):
        angle = position * base ** (-2 * f / d)
        a, b = channel_pair(f, d, interleaved)
        matrix[a, a] = matrix[b, b] = math.cos(angle)
        matrix[a, b], matrix[b, a] = -math.sin(angle), math.sin(angle)
    return matrix


def split_mix(key: int, counter: int) -> int:
    """The finaliser of SplitMix64 on unsigned numbers."""
    x = (key + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def uniform(key: int, counter: int) -> float:
    return ((split_mix(key, counter) >> 41) + 0.5) * 2.0**-23


def eviction_key(row: Row, t: int) -> int:
    """Noise of one row (seed 0, sample 0, eviction stream 2) at the eviction after position t."""
    text = f"0/{row.problem_id}/0/2".encode()
    return split_mix(int.from_bytes(hashlib.sha256(text).digest()[:8], "little"), t + 1)
