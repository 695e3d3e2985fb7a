"""Methods that rank by keys and values, and by queries to come or a judge over them."""

from __future__ import annotations

import cmath
import math

import numpy as np

from .frame import PerHead, Rule
from .pieces import attend, channel_pair, eviction_key, last_queries, softmax, split_mix, uniform


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
