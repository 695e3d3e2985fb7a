"""The rules of docs/methods.md and docs/budgets.md written out loop by loop, from the text and not from the library.

Slow on purpose. States are dictionaries keyed by position, so nothing has to be moved when something is evicted, and
queries, keys and values come from a run over the whole sequence (`oracle.Seen`), so neither slots nor rings exist here.
"""

from __future__ import annotations

import cmath
import hashlib
import math
from dataclasses import dataclass
from types import SimpleNamespace

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


# ------------------------------------------------------------------------------------------------ small pieces


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


# ------------------------------------------------------------------------------------------------ the frame


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


# ------------------------------------------------------------------------------------------------ D variants


class Recent(Rule):
    """`window`: the last ones."""

    def scores(self, t, held):
        return {j: float(j) for j in held[0][0]}


class WindowDynTS(Recent):
    def room(self, n, candidates):
        return 0 if self.o.protocol == "as_published" else super().room(n, candidates)


class StreamingDynTS(Recent):
    """`streaming_dynts`: `[:10] + [-W:]`."""

    def room(self, n, candidates):
        return 10 if self.o.protocol == "as_published" else super().room(n, candidates)


class NoThinking(Recent):
    """`dynts_nothink`: the prompt and the last W; the kept length follows the prompt."""

    def room(self, n, candidates):
        return self.row.n_prompt if self.o.protocol == "as_published" else super().room(n, candidates)


class SepLLMDynTS(Rule):
    """`sepllm_dynts`: the last m separators, m = min(count, floor(rho (n - W))); a row alone is not filled up."""

    def scores(self, t, held):
        return {j: j + (10**6 if self.row.tokens[j] in self.o.separators else 0) for j in held[0][0]}

    def room(self, n, candidates):
        k = super().room(n, candidates)
        if self.o.protocol != "as_published":
            return k
        return min(sum(self.row.tokens[j] in self.o.separators for j in candidates), k)


class SepLLM(SepLLMDynTS):
    """`sepllm`: first a tokens, at most s of the latest separators, last w."""

    def room(self, n, candidates):
        if self.o.protocol != "as_published":
            return Rule.room(self, n, candidates)
        separators = [j for j in candidates if j >= self.sinks and self.row.tokens[j] in self.o.separators]
        return self.sinks + min(len(separators), self.o.max_separators)


class H2ODynTS(Rule):
    """`h2o_dynts`: the mean over layers and heads of the step that triggers."""

    def scores(self, t, held):
        return mean_attention(self.row, t, held[0][0])


class SnapKVDynTS(Rule):
    """`snapkv_dynts`: a sum of whole-cache attention from step C - P - w, later from d_evict + C - kept - w."""

    def step(self, t, held):
        d, o = t - self.row.n_prompt, self.o
        # fair runs evict when budget + every slots are held: the published loop with C = budget + every - 1
        c = o.budget if o.protocol == "as_published" else o.budget + o.every - 1
        if self.number == 0:
            start = c - self.row.n_prompt - o.obs_window
        else:
            start = self.last_eviction + c - self.kept_length - o.obs_window
        if d == start:
            self.sum = dict.fromkeys(held[0][0], 0.0)
        if d >= start:
            for j, a in mean_attention(self.row, t, held[0][0]).items():
                self.sum[j] = self.sum.get(j, 0.0) + a

    def scores(self, t, held):
        return self.sum

    def keep(self, t, held):
        kept = super().keep(t, held)
        self.kept_length = len(kept[0][0])
        return kept


class RKVDynTS(SnapKVDynTS):
    """`rkv_dynts`: that sum over w, max-pooled over candidates, against redundancy averaged over layers and heads."""

    def scores(self, t, held):
        mine, o = held[0][0], self.o
        candidates = mine[: len(mine) - o.window]
        attention = pool({j: self.sum[j] / o.obs_window for j in candidates}, 7, "max")
        redundancy = dict.fromkeys(mine, 0.0)
        for layer in self.row.layers:
            for head in self.row.heads:
                for j, r in r_kv_redundancy(self.row.k[layer][head], mine, 0.5).items():
                    redundancy[j] += r / (len(self.row.layers) * len(self.row.heads))
        return {j: 0.1 * attention[j] - 0.9 * redundancy[j] for j in candidates}


class DynTS(Rule):
    """`dynts`: prompt and answer infinite, thinking tokens by their prediction."""

    def scores(self, t, held):
        return {j: self.row.importance[j] for j in held[0][0]}


class Bottom(DynTS):
    def scores(self, t, held):
        return {j: -s for j, s in super().scores(t, held).items()}


class DynTSBottom(Rule):
    """`dynts_bottom`: the k smallest of the vector in which question and answer are infinite."""

    def scores(self, t, held):
        row = self.row
        return {j: -math.inf if j < row.n_prompt or j >= row.answer_from else -row.importance[j] for j in held[0][0]}


class DynTSNoQuestion(Rule):
    """`dynts_noque`: the initial vector is 0, so the prompt ranks below every thinking token."""

    def scores(self, t, held):
        row = self.row
        return {j: 0.0 if j < row.n_prompt else row.importance[j] for j in held[0][0]}


class Uniform(Rule):
    """Uniform noise keyed by (row, eviction, layer and head, position)."""

    def scores(self, t, held):
        key, heads = eviction_key(self.row, t), len(self.row.heads)
        return [
            [
                {j: uniform(split_mix(key, 0 if self.shared else layer * heads + head), j) for j in held[layer][head]}
                for head in self.row.heads
            ]
            for layer in self.row.layers
        ]


# ------------------------------------------------------------------------------------------------ as their authors


class PerHead(Rule):
    """Scores of each layer and KV head on its own: `one(t, layer, head, mine)`."""

    def scores(self, t, held):
        return [[self.one(t, layer, head, held[layer][head]) for head in self.row.heads] for layer in self.row.layers]

    def candidates(self, mine):
        return mine[: len(mine) - self.o.window]


class H2O(PerHead):
    """`h2o`: S_j = sum over all queries i >= j of A_ij, prompt rows included; mean over the group."""

    def __post_init__(self):
        self.sum = {}
        for i in range(self.row.n_prompt):
            self.add(i, [[range(i + 1) for _ in self.row.heads] for _ in self.row.layers])

    def add(self, i, held):
        for layer in self.row.layers:
            for head in self.row.heads:
                for q_head in self.row.q_heads(head):
                    for j, a in attend(self.row, layer, q_head, i, held[layer][head]).items():
                        place = (layer, head, j)
                        self.sum[place] = self.sum.get(place, 0.0) + a / self.row.group

    def step(self, t, held):
        self.add(t, held)

    def one(self, t, layer, head, mine):
        return {j: self.sum[layer, head, j] for j in mine}


def last_queries(row: Row, t: int, w: int) -> range:
    return range(max(0, t - w + 1), t + 1)


class SnapKV(PerHead):
    """`snapkv`, R-KV's port: max over the group of the raw logits, softmax over candidates, mean, max-pool 7."""

    kernel = 7

    def attention(self, t, layer, head, mine):
        row, found = self.row, {}
        candidates = self.candidates(mine)
        queries = last_queries(row, t, self.o.obs_window)
        for i in queries:
            raw = [logits_of(row, layer, q_head, i, candidates) for q_head in row.q_heads(head)]
            for j, a in softmax({j: max(x[j] for x in raw) for j in candidates}).items():
                found[j] = found.get(j, 0.0) + a / len(queries)
        return pool(found, self.kernel, "max")

    def one(self, t, layer, head, mine):
        return self.attention(t, layer, head, mine)


class RKV(SnapKV):
    """`rkv`."""

    def one(self, t, layer, head, mine):
        attention = self.attention(t, layer, head, mine)
        redundancy = r_kv_redundancy(self.row.k[layer][head], mine, 0.5)
        return {j: 0.1 * attention[j] - 0.9 * redundancy[j] for j in attention}


class GKV(PerHead):
    """`gkv`."""

    def __post_init__(self):
        self.remembered = {}

    def one(self, t, layer, head, mine):
        row, candidates = self.row, self.candidates(mine)
        queries = last_queries(row, t, self.o.obs_window)
        local = dict.fromkeys(candidates, 0.0)
        for i in queries:
            seen = [attend(row, layer, q_head, i, mine) for q_head in row.q_heads(head)]
            for j in candidates:
                local[j] += max(a[j] for a in seen) / len(queries)
        top = max(local.values())
        merged = {}
        for j in candidates:
            f = local[j] / top
            merged[j] = max(0.8 * self.remembered.get((layer, head, j), f), f)
            self.remembered[layer, head, j] = merged[j]
        r = r_kv_redundancy(row.k[layer][head], mine, 0.5, zero_first_column=False)
        largest = max(r[j] for j in candidates)
        return {j: 0.5 * merged[j] - 0.5 * r[j] / largest for j in candidates}


class TOVA(Rule):
    """`tova`: the newest query, mean over all heads of the layer."""

    def scores(self, t, held):
        found = []
        for layer in self.row.layers:
            total = dict.fromkeys(held[layer][0], 0.0)
            for q_head in range(len(self.row.q[layer])):
                for j, a in attend(self.row, layer, q_head, t, held[layer][0]).items():
                    total[j] += a
            found.append([total for _ in self.row.heads])
        return found


class VaSEAttnV(PerHead):
    """`vase_attnv`: large value ranges stay (sinks first), the rest is drawn in proportion to attention."""

    def large(self, layer, head, mine):
        n_large = self.o.budget // 4
        sizes = {
            j: math.inf if j < 4 else float(max(self.row.v[layer][head][j]) - min(self.row.v[layer][head][j]))
            for j in self.candidates(mine)
        }
        return sorted(sizes, key=lambda j: (-sizes[j], j))[:n_large]

    def one(self, t, layer, head, mine):
        row, candidates = self.row, self.candidates(mine)
        queries = last_queries(row, t, self.o.obs_window)
        found = dict.fromkeys(candidates, 0.0)
        for q_head in row.q_heads(head):
            mean = dict.fromkeys(candidates, 0.0)
            for i in queries:
                for j, a in softmax(logits_of(row, layer, q_head, i, candidates)).items():
                    mean[j] += a / len(queries)
            for j, a in pool(mean, 5, "avg").items():
                found[j] += a / row.group
        # the largest of log weight + Gumbel are a draw without replacement in proportion to the weights
        key = split_mix(eviction_key(row, t), layer * len(row.heads) + head)
        found = {j: math.log(a) - math.log(-math.log(uniform(key, j))) for j, a in found.items()}
        for j in self.large(layer, head, mine):
            found[j] = math.inf
        return found


class VaSEDKV(PerHead):
    """`vase_dkv`: |kG|^2 |vG|^2 with G of d x 20, fresh per eviction, row and layer."""

    def one(self, t, layer, head, mine):
        row, d = self.row, len(self.row.k[0][0][0])
        key, size = eviction_key(row, t), len(row.layers) * d * 20
        matrix = np.zeros((d, 20))
        for a in range(d):
            for b in range(20):
                place = (layer * d + a) * 20 + b
                radius = math.sqrt(-2 * math.log(uniform(key, place)))
                matrix[a, b] = radius * math.cos(2 * math.pi * uniform(key, place + size)) / math.sqrt(20)
        return {
            j: float(np.sum((row.k[layer][head][j] @ matrix) ** 2) * np.sum((row.v[layer][head][j] @ matrix) ** 2))
            for j in mine
        }


class TriAttention(Rule):
    """`triattention` with explicit loops over distances and channels; its `t` is the count of tokens seen."""

    def scores(self, t, held):
        # the token just fed lies at position t, so t + 1 have been seen
        row, d, n_seen = self.row, len(self.row.k[0][0][0]), t + 1
        total = [dict.fromkeys(held[0][head], 0.0) for head in row.heads]
        for layer in row.layers:
            for head in row.heads:
                mine = held[layer][head]
                scored = [j for j in mine[: len(mine) - self.o.window] if j >= row.n_prompt]
                best = dict.fromkeys(mine, -math.inf)
                for q_head in row.q_heads(head):
                    s = {j: self.expected(layer, q_head, head, j, n_seen, d) for j in mine}
                    mean = sum(s[j] for j in scored) / len(scored)
                    deviation = math.sqrt(sum((s[j] - mean) ** 2 for j in scored) / len(scored))
                    for j in mine:
                        best[j] = max(best[j], (s[j] - mean) / deviation)
                for j in mine:
                    total[head][j] += best[j] / len(row.layers)
        return [[total[head] for head in row.heads] for _ in row.layers]

    def expected(self, layer, q_head, head, j, n_seen, d):
        plain = self.row.rotation(layer, j).T @ self.row.k[layer][head][j]
        found = 0.0
        for f in range(d // 2):
            a, b = channel_pair(f, d, self.row.interleaved)
            key, omega = complex(plain[a], plain[b]), 0.0 if layer in self.row.still else 10000.0 ** (-2 * f / d)
            mean = complex(self.o.calibration.mean[layer, q_head, f])
            size = float(self.o.calibration.mean_size[layer, q_head, f])
            amplitude, phase = abs(mean) * abs(key), cmath.phase(mean * key.conjugate())
            extra = (size - abs(mean)) * abs(key)
            for exponent in range(17):
                found += (amplitude * math.cos(omega * (n_seen - j + 2**exponent) + phase) + extra) / 17
        return found


class LazyEviction(PerHead):
    """`lazy_eviction`, step by step; a slot is important if any query head of its KV head says so."""

    def __post_init__(self):
        self.used, self.mri = {}, {}

    def step(self, t, held):
        row, step = self.row, t - self.row.n_prompt + 1
        for layer in row.layers:
            for head in row.heads:
                weights = [attend(row, layer, q_head, t, held[layer][head]) for q_head in row.q_heads(head)]
                for j in held[layer][head]:
                    place = (layer, head, j)
                    if place not in self.used:
                        self.used[place], self.mri[place] = (0 if step == 1 else step - 1), 0
                    if max(a[j] for a in weights) >= self.o.importance:
                        self.mri[place] = max(self.mri[place], step - self.used[place])
                        self.used[place] = step

    def one(self, t, layer, head, mine):
        step = t - self.row.n_prompt + 1
        return {j: recurrence_score(self.mri[layer, head, j], step - self.used[layer, head, j]) for j in mine}


class RaaS(PerHead):
    """`raas`, per token and KV head: the upper half gets the step as timestamp; the most recent wins a tie."""

    def __post_init__(self):
        self.stamp = {}

    def step(self, t, held):
        row = self.row
        for layer in row.layers:
            for head in row.heads:
                mine = held[layer][head]
                total = dict.fromkeys(mine, 0.0)
                for q_head in row.q_heads(head):
                    for j, a in attend(row, layer, q_head, t, mine).items():
                        total[j] += a
                ranked = sorted(mine, key=lambda j, total=total: -total[j])
                for j in [*ranked[: math.ceil(len(mine) / 2)], t]:
                    self.stamp[layer, head, j] = t

    def one(self, t, layer, head, mine):
        return {j: self.stamp.get((layer, head, j), 0) + j / (t + 2) for j in mine}


class RPC(Rule):
    """`rpc`: prompt and last R stay; every P tokens the rest shrinks to (N + 1) T."""

    def is_due(self, n, n_before):
        if self.o.protocol != "as_published":
            return super().is_due(n, n_before)
        return n - self.row.n_prompt - self.number * (self.o.budget // 4) - self.o.window == self.o.budget

    def room(self, n, candidates):
        if self.o.protocol != "as_published":
            return super().room(n, candidates)
        return self.row.n_prompt + (self.number + 1) * (self.o.budget // 4)

    def scores(self, t, held):
        row, found = self.row, []
        for layer in row.layers:
            mine = held[layer][0]
            region = [j for j in mine[: len(mine) - self.o.window] if j >= row.n_prompt]
            total = dict.fromkeys(region, 0.0)
            for i in last_queries(row, t, self.o.obs_window):
                for q_head in range(len(row.q[layer])):
                    for j, a in softmax(logits_of(row, layer, q_head, i, region)).items():
                        total[j] += a / len(row.q[layer])
            found.append([pool(total, 7, "avg") for _ in row.heads])
        return found


class KeyDiff(PerHead):
    """`keydiff`: minus the cosine with the mean of the normalised keys."""

    def one(self, t, layer, head, mine):
        return key_diff({j: self.row.k[layer][head][j] for j in mine})


def key_diff(keys: dict) -> dict:
    anchor = sum(np.asarray(k) / np.linalg.norm(k) for k in keys.values()) / len(keys)
    return {j: -float(k @ anchor) / (np.linalg.norm(k) * np.linalg.norm(anchor)) for j, k in keys.items()}


class Knorm(PerHead):
    def one(self, t, layer, head, mine):
        return {j: -float(np.linalg.norm(self.row.k[layer][head][j])) for j in mine}


class ExpectedAttention(PerHead):
    """`expected_attention` with explicit d x d rotations; positions to come are absolute."""

    def one(self, t, layer, head, mine):
        row = self.row
        ranked = [j for j in mine if j >= self.sinks]
        average = sum(row.rotation(layer, t + 1 + x) for x in range(self.o.future)) / self.o.future
        found = dict.fromkeys(mine, 0.0)
        for q_head in row.q_heads(head):
            queries = [
                row.rotation(layer, i).T @ row.q[layer][q_head][i]
                for i in last_queries(row, t, self.o.obs_window)
                if i >= self.sinks
            ]
            mean = sum(queries) / len(queries)
            covariance = sum(np.outer(x - mean, x - mean) for x in queries) / len(queries)
            mean, covariance = average @ mean, average @ covariance @ average.T
            logits = {}
            for j in ranked:
                key = row.k[layer][head][j]
                logits[j] = float(mean @ key) * row.factor + float(key @ covariance @ key) * row.factor**2 / 2
            for j, a in softmax(logits).items():
                found[j] += a / row.group * float(np.linalg.norm(row.v[layer][head][j]))
        return found


class ForesightKV(PerHead):
    """`foresight_kv`: `[k; v; features]` through the judge; the highest 2 D are drawn from by softmax."""

    def __post_init__(self):
        self.running, self.decayed = {}, {}

    def before_the_first_block(self, t, layer, q_head):
        """The prompt's queries are one block; blocks of `period` are counted back from the first eviction."""
        row, period = self.row, self.o.period
        ends = list(range(t + 1 - period, row.n_prompt, -period))[::-1]
        blocks = [range(row.n_prompt)] + [range(max(row.n_prompt, e - period), e) for e in ends]
        for j in range(t + 1):
            for block in blocks:
                got = sum(attend(row, layer, q_head, i, range(i + 1)).get(j, 0.0) for i in block)
                self.running[layer, q_head, j] = self.running.get((layer, q_head, j), 0.0) + got
                self.decayed[layer, q_head, j] = 0.9 * self.decayed.get((layer, q_head, j), 0.0) + got

    def one(self, t, layer, head, mine):
        row, candidates, found = self.row, self.candidates(mine), {}
        queries = last_queries(row, t, self.o.period)
        first = (layer, row.q_heads(head)[0], 0) not in self.running
        for q_head in row.q_heads(head) if first else ():
            self.before_the_first_block(t, layer, q_head)
        weights = {q: [attend(row, layer, q, i, mine) for i in queries] for q in row.q_heads(head)}
        for j in mine:
            features = [*row.k[layer][head][j], *row.v[layer][head][j]]
            for q_head in row.q_heads(head):
                a, place = [x.get(j, 0.0) for x in weights[q_head]], (layer, q_head, j)
                # the prompt's own queries are counted already, also where the block reaches back to them
                new = sum(x for x, i in zip(a, queries, strict=True) if i >= row.n_prompt)
                self.running[place] = self.running.get(place, 0.0) + new
                self.decayed[place] = 0.9 * self.decayed.get(place, 0.0) + new
                features += [max(a), min(a), sum(a), sum(a[-16:]), sum(a[-8:]), sum(a[-32:])]
                features += [self.running[place], self.decayed[place]]
            found[j] = self.judge(layer, head, features)
        n_dropped = len(candidates) - (self.o.budget - self.o.window)
        highest = sorted(candidates, key=lambda j: -found[j])[: 2 * n_dropped]
        key = split_mix(eviction_key(row, t), layer * len(row.heads) + head)
        scores = dict.fromkeys(mine, 1e6)
        for j in highest:
            scores[j] = -(found[j] - math.log(-math.log(uniform(key, j))))
        return scores

    def judge(self, layer, head, features):
        w = self.o.judge
        out = w["outer_bias"][layer, head]
        for unit in range(16):
            x = sum(f * y for f, y in zip(features, w["inner"][layer, head, :, unit], strict=True))
            x += w["inner_bias"][layer, head, unit]
            out += w["outer"][layer, head, unit] * 0.5 * x * (1 + math.erf(x / math.sqrt(2)))
        return float(out)


# ------------------------------------------------------------------------------------------------ bounds


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


# name -> (rule, what it pins)
_QA = {"pins_question": True, "pins_answer": True}
RULES: dict[str, tuple[type[Rule], dict]] = {
    "window_dynts": (WindowDynTS, {}),
    "streaming_dynts": (StreamingDynTS, {"sinks": 10}),
    "sepllm_dynts": (SepLLMDynTS, {}),
    "h2o_dynts": (H2ODynTS, {}),
    "snapkv_dynts": (SnapKVDynTS, {}),
    "rkv_dynts": (RKVDynTS, {}),
    "window": (Recent, {}),
    "streaming_llm": (Recent, {"sinks": 4}),
    "sepllm": (SepLLM, {"sinks": 4}),
    "h2o": (H2O, {}),
    "snapkv": (SnapKV, {}),
    "rkv": (RKV, {}),
    "dynts": (DynTS, _QA),
    "dynts_random": (Uniform, {}),
    "dynts_bottom": (DynTSBottom, {}),
    "dynts_noque": (DynTSNoQuestion, {"pins_answer": True}),
    "dynts_nothink": (NoThinking, {"pins_question": True}),
    "dynts_nolocal": (DynTS, _QA),
    "random": (Uniform, _QA),
    "bottom": (Bottom, _QA),
    "question_window": (Recent, {"pins_question": True}),
    "random_attention": (Uniform, {"shared": False, "pins_question": True}),
    "vase_attnv": (VaSEAttnV, {"sinks": 4}),
    "vase_dkv": (VaSEDKV, {"sinks": 4}),
    "triattention": (TriAttention, {"pins_question": True}),
    "gkv": (GKV, {}),
    "lazy_eviction": (LazyEviction, {}),
    "foresight_kv": (ForesightKV, {}),
    "rpc": (RPC, {"pins_question": True}),
    "raas": (RaaS, {"pins_question": True}),
    "tova": (TOVA, {}),
    "keydiff": (KeyDiff, {}),
    "knorm": (Knorm, {}),
    "expected_attention": (ExpectedAttention, {"sinks": 4}),
    "oracle_answer": (OracleAnswer, _QA),
    "oracle_future": (OracleFuture, {}),
}
