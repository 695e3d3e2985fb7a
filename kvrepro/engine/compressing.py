"""Eviction inside `model.generate(...)`, or inside any loop that calls the model with a cache.

The loop is the caller's. What a call of the model does is the engine's: prefill, step, observation, eviction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from ..cache.attention import slot_attention
from ..cache.rotary import check_length
from ..cache.slots import CompressedCache
from ..checks import typed
from ..errors import KvreproError
from ..methods.base import EvictionMethod
from ..methods.views import NEVER, StepView
from ..models.tokens import THINK_END_TEXT, ThinkTags
from .batch import ActiveBatch
from .engine import Engine
from .generate import check_loaded, chosen_method
from .requests import Request, SamplingConfig

_BEAMS = "beams exchange rows of the cache; use greedy decoding or sampling"
_SPECULATION = "a rejected token would have to leave the cache, and an eviction cannot be taken back"
_PROBES = "a step of the engine keeps no such tensors"
_CACHE = "the cache of `compressing` is the one that is used"
# what `generate` offers and this cache does not serve: harmless values beside None, and why
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "num_beams": ((1,), _BEAMS),
    "assistant_model": ((), _SPECULATION),
    "prompt_lookup_num_tokens": ((), _SPECULATION),
    "assistant_early_exit": ((), _SPECULATION),
    "use_mtp": ((False,), _SPECULATION),
    "penalty_alpha": ((0,), "contrastive search copies rows of the cache"),
    "guidance_scale": ((1,), "guidance runs the model on a second cache, which nothing compresses"),
    "dola_layers": ((), _PROBES),
    "output_attentions": ((False,), _PROBES),
    "output_hidden_states": ((False,), _PROBES),
    "use_cache": ((True,), _CACHE),
    "cache_implementation": ((), _CACHE),
    "prefill_chunk_size": ((), "a prompt comes in one call; its prefill is cut into chunks in any case"),
    "token_healing": ((False,), "it generates once more, inside, on the same cache"),
    "inputs_embeds": ((), "methods look at token ids; pass input_ids"),
    "labels": ((), "there are no gradients through a step of the engine"),
    "return_dict": ((True,), "the output has names"),
}


@contextmanager
def compressing(
    model: PreTrainedModel,
    tokenizer,
    method: str | type[EvictionMethod] | EvictionMethod = "full",
    budget: int | None = None,
    *,
    rows: int = 1,
    max_tokens: int | None = None,
    seed: int = 0,
    think_end: str | None = THINK_END_TEXT,
    think_start: str | None = None,
    **options: object,
) -> Iterator[CompressedCache]:
    """Inside the block `model.generate(...)` evicts: it decodes over the cache that the block is given.

    A loop of your own calls `model(input_ids=ids, past_key_values=cache)`: first with the prompts, then with one token
    per row. Prompts of several lengths are padded on the left; `attention_mask` says so. `logits` are `[B, 1, V]`.
    `generate` begins with an empty cache; your own loop calls `cache.reset()` before the next prompts.

    Args:
        method, budget, think_end, think_start, options: as those of `kvrepro.generate`.
        rows: most sequences at a time.
        max_tokens: most tokens of a prompt and its reply together; needed where a row may grow as long as they are
            (`full`).
        seed: of the eviction noise; row `i` has that of problem `i`, sample 0 of `kvrepro.generate`.

    Raises:
        KvreproError: as `kvrepro.generate`; inside the block, what `generate` or a call of the model asks for and a
            cache that evicts does not serve.
    """
    check_loaded(model, tokenizer)
    if not isinstance(model, PreTrainedModel) or model._compiled_call_impl is not None:
        raise KvreproError(
            f"model is {type(model).__name__}, wrapped or compiled: pass the transformers model itself, uncompiled"
        )
    rows, max_tokens = typed("rows", rows, int), typed("max_tokens", max_tokens, int | None)
    if rows < 1 or (max_tokens is not None and max_tokens < 1):
        raise KvreproError(f"rows={rows}, max_tokens={max_tokens}: both must be at least 1")
    chosen = chosen_method(method, typed("budget", budget, int | None), options, model, tokenizer)
    think = ThinkTags.of(tokenizer, think_end, think_start)
    sizes = {"batch_rows": rows, "max_new_tokens": NEVER if max_tokens is None else max_tokens}
    engine = Engine(model, chosen, think, (), sampling=SamplingConfig(), seed=typed("seed", seed, int), **sizes)
    capacity = chosen.capacity_slots(engine.max_new_tokens, 0)
    if capacity >= NEVER:
        raise KvreproError(f"method {chosen.name!r} may keep every token: say max_tokens=..., of prompt and reply")
    calls = _Calls(engine, capacity)
    cache = calls.state.cache
    forward, generate = model.forward, model.generate

    @wraps(forward)
    def call(input_ids: Tensor | None = None, **given: Any) -> Any:
        if "slots" in given or "probe" in given:
            # the engine's own
            return forward(input_ids=input_ids, **given)
        if given.get("past_key_values") is not cache:
            raise KvreproError("inside kvrepro.compressing the model is called with past_key_values=cache, its cache")
        _refuse("the model was called with", given)
        return calls(input_ids, given.get("attention_mask"), given.get("position_ids"))

    @wraps(generate)
    def begin(inputs: Tensor | None = None, generation_config: Any = None, *others: Any, **given: Any) -> Any:
        _refuse("generate was called with", {**vars(generation_config or model.generation_config), **given})
        cache.reset()
        return generate(inputs, generation_config, *others, **{"past_key_values": cache, **given})

    with slot_attention(model, cache), _replaced(model, "forward", call), _replaced(model, "generate", begin):
        yield cache


@contextmanager
def _replaced(model: PreTrainedModel, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """The model's own attribute inside the block; what stood there before comes back."""
    before = vars(model).get(name)
    setattr(model, name, function)
    try:
        yield
    finally:
        delattr(model, name)
        if before is not None:
            setattr(model, name, before)


def _refuse(what: str, given: dict[str, Any]) -> None:
    for name, (harmless, why) in REFUSED.items():
        value = given.get(name)
        if value is not None and value not in harmless:
            shown = type(value).__name__ if isinstance(value, torch.nn.Module | Tensor) else repr(value)
            raise KvreproError(f"{what} {name}={shown}, which kvrepro.compressing does not serve: {why}")


class _Calls:
    """The calls of a model: prompts into an empty cache, then one token per row."""

    def __init__(self, engine: Engine, capacity: int):
        self.engine = engine
        self.state = engine.open(engine.batch_rows, capacity)

    def __call__(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> CausalLMOutputWithPast:
        cache = self.state.cache
        # a mask of bools knows no differences
        mask = None if mask is None else mask.long()
        if ids is None or ids.ndim != 2:
            raise KvreproError(f"input_ids={ids!r}: expected token ids [sequences, tokens]")
        ids = ids.to(self.engine.model.device)
        with torch.inference_mode():
            logits = self._step(ids, mask, positions) if cache.lengths else self._prefill(ids, mask, positions)
        # a copy: a decoder's next step may write where this one did, and no caller should hold an inference tensor
        return CausalLMOutputWithPast(logits=logits.clone()[:, None], past_key_values=cache)

    def _prefill(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """Logits `[B, V]` after the prompts, each run alone and without its padding."""
        engine, state = self.engine, self.state
        if len(ids) > engine.batch_rows:
            raise KvreproError(
                f"{len(ids)} sequences, room for rows={engine.batch_rows}: kvrepro.compressing(rows=...)"
            )
        if mask is not None and (mask.shape != ids.shape or (mask.diff(dim=1) < 0).any()):
            raise KvreproError(
                f"attention_mask {list(mask.shape)} for tokens {list(ids.shape)}: prompts are padded on the left, "
                "with 0 there and 1 elsewhere (tokenizer.padding_side = 'left')"
            )
        lengths = [ids.shape[1]] * len(ids) if mask is None else mask.sum(1).tolist()
        engine.check_prompts(lengths)
        self._check(lengths, None, positions)
        state.batch = ActiveBatch(engine.batch_rows, ids.device)
        logits = []
        for i, (row_ids, n) in enumerate(zip(ids.tolist(), lengths, strict=True)):
            row, following = engine.prefill(state, Request(str(i), 0, tuple(row_ids[-n:])))
            state.batch.rows.append(row)
            logits.append(following)
        state.prefilled.clear()
        return torch.stack(logits)

    def _step(self, ids: Tensor, mask: Tensor | None, positions: Tensor | None) -> Tensor:
        """Logits `[B, V]` after one more token per row; rows that are full then have evicted."""
        engine, state = self.engine, self.state
        cache, method = state.cache, engine.method
        if ids.shape != (cache.n_rows, 1):
            raise KvreproError(
                f"tokens {list(ids.shape)} for a cache that holds {cache.n_rows} sequences: expected one token each; "
                "call cache.reset() before other prompts"
            )
        self._check([n + 1 for n in cache.seen], mask, positions)
        tokens = ids[:, 0]
        for row, token in zip(state.batch.rows, tokens.tolist(), strict=True):
            row.append(token, engine.think)
        logits, hidden = engine.decoder.step(tokens, cache)
        method.observe(StepView(cache, hidden, tokens))
        for length, rows in state.groups_due(method):
            engine.evict(state, rows, length)
        state.count_evictions(method, engine.stats)
        return logits

    def _check(self, lengths: list[int], mask: Tensor | None, positions: Tensor | None) -> None:
        """Refuse rows of so many tokens, this call's included, that the cache has no room for, or that the caller
        counts otherwise.
        """
        longest, config = max(lengths), self.engine.model.config
        if longest > self.engine.max_new_tokens:
            raise KvreproError(
                f"{longest} tokens, room for max_tokens={self.engine.max_new_tokens} of prompt and reply"
            )
        check_length(config, self.state.cache.capacity if self.state.cache.reindexed else longest)
        counted = {}
        if mask is not None:
            counted["attention_mask counts"] = mask.sum(-1).tolist()
        if positions is not None:
            last = (positions[:, -1] + 1).tolist()
            counted["position_ids count"] = last * len(lengths) if len(last) == 1 else last
        for what, tokens in counted.items():
            if tokens != lengths:
                raise KvreproError(
                    f"{what} {tokens} tokens, the cache {lengths}, these included: positions count every token of a "
                    "sequence, evicted ones too, and no padding; call cache.reset() before other prompts"
                )
