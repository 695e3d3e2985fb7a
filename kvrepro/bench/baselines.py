"""What users would otherwise run, one step at a time: transformers.generate, a reference-style loop, kvpress.

Imports torch and transformers only, of whatever version the environment has: kvpress pins an older one than this
package. Every loop samples alike (temperature 0.6, top-k 20, top-p 0.95) and reads its tokens at every step.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StoppingCriteriaList

from .laps import Laps, timed

SAMPLING = dict(temperature=0.6, top_k=20, top_p=0.95)


def filled_cache(model: PreTrainedModel, rows: int, length: int) -> DynamicCache:
    """A DynamicCache that already holds `length` tokens of noise in every row."""
    cache, config = DynamicCache(), model.config
    heads = config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for layer in range(config.num_hidden_layers):
        # one token's noise everywhere: values change no time, and drawing gigabytes of them takes longer than steps
        noise = torch.randn(2, 1, heads, 1, width, dtype=model.dtype, device=model.device) / 2
        keys, values = (part.expand(rows, heads, length, width).contiguous() for part in noise)
        cache.update(keys, values, layer)
    return cache


def cache_bytes(cache: DynamicCache) -> int:
    """Bytes of K and V that the cache holds."""
    return sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))


def draw(logits: Tensor) -> Tensor:
    """`[B]` tokens from `[B, V]` logits: temperature, top-k, top-p, multinomial; no full sort of the vocabulary."""
    top, tokens = (logits.float() / SAMPLING["temperature"]).topk(SAMPLING["top_k"], dim=-1)
    probabilities = top.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    probabilities = probabilities.masked_fill(before >= SAMPLING["top_p"], 0.0)
    return tokens.gather(-1, torch.multinomial(probabilities, 1)).squeeze(-1)


def generate_replies(
    model: PreTrainedModel, ids: Tensor, cache: DynamicCache, new_tokens: int, stopping: Any = None
) -> None:
    """`transformers.generate` for `new_tokens` tokens after `ids` `[B, T]`, whatever they are."""
    sizes = {"max_new_tokens": new_tokens, "eos_token_id": None, "pad_token_id": 0, "stopping_criteria": stopping}
    mask = torch.ones_like(ids)
    out = model.generate(ids, attention_mask=mask, past_key_values=cache, do_sample=True, **sizes, **SAMPLING)
    if out.shape[1] != ids.shape[1] + new_tokens:
        raise RuntimeError(f"generate made {out.shape[1] - ids.shape[1]} tokens instead of {new_tokens}")


class Baseline:
    """A loop over a DynamicCache that transformers concatenates anew at every step.

    Args:
        model: a decoder of the Llama layout.
        rows: rows decoded together.
        budget, evict_every: slots after an eviction and tokens between evictions; None for the full cache.

    Every measurement returns median milliseconds by either clock.
    """

    attention = "sdpa"

    def __init__(self, model: PreTrainedModel, rows: int, budget: int | None = None, evict_every: int = 128):
        self.model, self.rows, self.budget, self.evict_every = model, rows, budget, evict_every
        model.set_attn_implementation(self.attention)

    def hooks(self) -> Any:
        """Around every step."""
        return nullcontext()

    def evict(self, cache: DynamicCache) -> None:
        """Keep `budget` slots of every row and layer."""

    @torch.inference_mode()
    def stretch(self, length: int, steps: int, warm_up: int) -> dict[str, float]:
        """Steps that begin at `length` slots, and the bytes of K and V at their end; the `warm_up` ones come first."""
        cache, tokens = filled_cache(self.model, self.rows, length), [1] * self.rows
        laps = Laps()
        with self.hooks():
            for number in range(warm_up + steps):
                tokens = self._step(tokens, cache, length + number)
                laps.lap()
        return {**laps.medians(warm_up), "kv_bytes": cache_bytes(cache)}

    @torch.inference_mode()
    def eviction(self, repeats: int) -> dict[str, float]:
        """Evictions of the whole batch, after one that warms up."""
        laps = Laps()
        for _ in range(repeats + 1):
            cache = filled_cache(self.model, self.rows, self.budget + self.evict_every)
            laps.start()
            self.evict(cache)
            laps.lap()
        return laps.medians(1)

    @torch.inference_mode()
    def reply(self, prompt: int, new_tokens: int) -> dict[str, float]:
        """Decode whole replies, prefill included."""
        laps = Laps()
        cache, ids = DynamicCache(), torch.ones(self.rows, prompt, dtype=torch.int64, device=self.model.device)
        logits = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        tokens = draw(logits[:, -1]).tolist()
        with self.hooks():
            for number in range(new_tokens - 1):
                tokens = self._step(tokens, cache, prompt + number)
                if self.budget is not None and cache.get_seq_length() >= self.budget + self.evict_every:
                    self.evict(cache)
        laps.lap()
        return laps.medians()

    def _step(self, tokens: list[int], cache: DynamicCache, position: int) -> list[int]:
        ids = torch.tensor(tokens, device=self.model.device)[:, None]
        out = self.model(ids, past_key_values=cache, position_ids=torch.full_like(ids, position), use_cache=True)
        return draw(out.logits[:, -1]).tolist()


class ReferenceLoop(Baseline):
    """The published code's loop in small: eager attention, a concatenation per step, eviction by gather.

    It keeps the most recent slots, the cheapest rule there is; the published methods score beyond that.
    """

    attention = "eager"

    def evict(self, cache: DynamicCache) -> None:
        """As the published code compacts: one gather per layer, with an index of the keys' full shape."""
        for layer in cache.layers:
            length = layer.keys.shape[2]
            kept = torch.arange(length - self.budget, length, device=layer.keys.device)[None, None, :, None]
            kept = kept.expand(*layer.keys.shape[:2], -1, layer.keys.shape[3])
            layer.keys = layer.keys.gather(2, kept).contiguous()
            layer.values = layer.values.gather(2, kept).contiguous()


class KvpressLoop(Baseline):
    """kvpress' `DecodingPress` around its pipeline's loop, for several rows at once.

    The base press is `StreamingLLMPress`, whose scores cost next to nothing, and no hidden states are buffered for
    it: the cheapest press there is.
    """

    def __init__(self, model: PreTrainedModel, rows: int, budget: int | None = None, evict_every: int = 128):
        super().__init__(model, rows, budget, evict_every)
        # an optional dependency, of an environment of its own
        from kvpress import DecodingPress, StreamingLLMPress

        self.press = DecodingPress(
            StreamingLLMPress(), compression_interval=evict_every, target_size=budget, hidden_states_buffer_size=0
        )

    def hooks(self) -> Any:
        """The press attaches to every layer's attention, its counters at zero."""
        self.press.reset()
        return self.press(self.model)

    def evict(self, cache: DynamicCache) -> None:
        """The press' own compression of every layer; in a step its hook calls the same."""
        for index, layer in enumerate(cache.layers):
            module = self.model.model.layers[index].self_attn
            layer.keys, layer.values = self.press.compress(module, None, layer.keys, layer.values, None, {})

    def reply(self, prompt: int, new_tokens: int) -> dict[str, float]:
        """The press evicts by its own count of steps."""
        # no second eviction by the loop
        self.budget = None
        return super().reply(prompt, new_tokens)


class Generate(Baseline):
    """`transformers.generate` itself with SDPA and its DynamicCache; a stopping rule takes the time of each token."""

    @torch.inference_mode()
    def stretch(self, length: int, steps: int, warm_up: int) -> dict[str, float]:
        """Tokens of one call over a filled cache."""
        cache, laps = filled_cache(self.model, self.rows, length), Laps(self.model.device)
        ids = torch.ones(self.rows, length + 1, dtype=torch.int64, device=self.model.device)

        def lap(input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
            laps.lap()
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

        generate_replies(self.model, ids, cache, warm_up + steps, StoppingCriteriaList([lap]))
        return {**laps.medians(warm_up), "kv_bytes": cache_bytes(cache)}

    def reply(self, prompt: int, new_tokens: int) -> dict[str, float]:
        """One call."""
        ids = torch.ones(self.rows, prompt, dtype=torch.int64, device=self.model.device)
        return timed(lambda: generate_replies(self.model, ids, DynamicCache(), new_tokens))


LOOPS = {"generate": Generate, "reference": ReferenceLoop, "kvpress": KvpressLoop}
