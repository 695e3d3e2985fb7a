"""Methods that rank by attention, of the last queries or of every step, as their authors define them."""

from __future__ import annotations

import math

from .frame import PerHead, Rule
from .pieces import (
    attend,
    eviction_key,
    last_queries,
    logits_of,
    pool,
    r_kv_redundancy,
    recurrence_score,
    softmax,
    split_mix,
    uniform,
)


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
