"""`kvrepro.generate`: prompts in, completions out, under any method and budget."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from transformers import PreTrainedModel

from .assets import method_assets
from .completions import Completion, Request
from .engine import Engine
from .methods import create_method, method_class
from .methods.base import EvictionMethod
from .sampling_config import SamplingConfig
from .tokens import THINK_END_TEXT, ThinkTags, render_prompt, reply_parts


def end_token_ids(model: PreTrainedModel, tokenizer) -> list[int]:
    """Tokens that end a reply: the generation config's, else the tokenizer's.

    Warns where none of the generation config's is the end token of the tokenizer (or of the model's configuration,
    where the tokenizer has none): replies would then end elsewhere than they do in a chat.
    """
    ids = _as_list(model.generation_config.eos_token_id)
    others = {"the tokenizer": _as_list(tokenizer.eos_token_id), "config.json": _as_list(model.config.eos_token_id)}
    known = next((named for named in others.values() if named), [])
    if ids and known and not set(ids) & set(known):
        named = ", ".join(f"{place} names {_shown(tokenizer, found)}" for place, found in others.items() if found)
        warnings.warn(
            f"generation_config.json ends replies at {_shown(tokenizer, ids)}, but {named}. The one of "
            "generation_config.json is used; correct eos_token_id there if replies run on or stop early",
            RuntimeWarning, stacklevel=2,
        )  # fmt: skip
    return ids or _as_list(tokenizer.eos_token_id)


def _as_list(ids: int | Sequence[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _shown(tokenizer, ids: Sequence[int]) -> str:
    return " or ".join(f"{tokenizer.convert_ids_to_tokens(i)!r} ({i})" for i in ids)


def generate(
    model: PreTrainedModel, tokenizer, prompts: Sequence[str | Sequence[int]], method: str | EvictionMethod = "full",
    budget: int | None = None, *, n_samples: int = 1, batch_rows: int = 32, max_new_tokens: int = 1024, seed: int = 0,
    temperature: float = 0.6, top_p: float = 0.95, top_k: int = 20, sampling_order: str = "hf",
    think_end: str | None = THINK_END_TEXT, think_start: str | None = None, open_thought: str | None = None,
    keep_positions: bool = False, engine: list | None = None, **options: object,
) -> list[Completion]:  # fmt: skip
    """Generate replies under a KV budget.

    Args:
        prompts: questions (text, rendered by the chat template) or prompts as token ids.
        method: a name (`kvrepro list methods`), a method built by `create_method`, or an `EvictionMethod` subclass.
        budget: slots per row; leave out for `full`.
        n_samples: replies per prompt.
        think_end: the tag that ends the thought; None for a model that does not think.
        think_start: the tag that opens it; None takes `think_end` without its `/`.
        open_thought: what happens where the chat template does not end a prompt with that tag: `always` appends it and
            a newline, `template` leaves the prompt alone, None does too, but warns.
        keep_positions: record what every eviction kept.
        engine: pass an empty list to receive the `Engine` and with it the run's `stats`.
        options: window, ratio, evict_every, protocol and the method's own options.

    Returns:
        `len(prompts) * n_samples` completions, samples of a prompt together, in the order of `prompts`.
    """
    think = ThinkTags.of(tokenizer, think_end, think_start, open_thought)
    if not isinstance(method, EvictionMethod):
        cls = method_class(method) if isinstance(method, str) else method
        method = create_method(cls, budget, **{**options, **method_assets(cls, model, tokenizer, options)})
    runner = Engine(
        model, method, think, end_token_ids(model, tokenizer),
        sampling=SamplingConfig(temperature, top_p, top_k, sampling_order), batch_rows=batch_rows,
        max_new_tokens=max_new_tokens, seed=seed, keep_positions=keep_positions,
    )  # fmt: skip
    if engine is not None:
        engine.append(runner)
    requests = [
        Request(str(i), s, tuple(render_prompt(tokenizer, p, think) if isinstance(p, str) else p))
        for i, p in enumerate(prompts)
        for s in range(n_samples)
    ]
    done = {}
    for completion in runner.run(requests):
        completion.text, completion.answer_start = reply_parts(
            tokenizer, completion.token_ids, completion.n_closed, think
        )
        done[completion.request] = completion
    return [done[request] for request in requests]
