"""DynTS, its ablations and its baselines as its repository runs them; noise and recency at equal budget."""

from __future__ import annotations

import math

from .frame import Rule
from .pieces import eviction_key, mean_attention, pool, r_kv_redundancy, split_mix, uniform


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
