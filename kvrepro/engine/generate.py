"""`kvrepro.generate`: prompts in, completions out, under any method and budget."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, get_type_hints

from torch import nn
from transformers import PreTrainedModel

from ..checks import typed
from ..errors import KvreproError, check_known
from ..methods.base import EvictionMethod
from ..methods.learned.loading import load_learned
from ..methods.table import create_method, method_class
from ..models.prompt_forms import Prompt, prompt_ids
from ..models.tokens import THINK_END_TEXT, ThinkTags, render_prompt, reply_parts
from .engine import Engine
from .observer import KeptPositions
from .requests import Completion, Request, SamplingConfig


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
            RuntimeWarning,
            stacklevel=2,
        )
    return ids or _as_list(tokenizer.eos_token_id)


def _as_list(ids: int | Sequence[int] | None) -> list[int]:
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def _shown(tokenizer, ids: Sequence[int]) -> str:
    return " or ".join(f"{tokenizer.convert_ids_to_tokens(i)!r} ({i})" for i in ids)


def generate(
    model: PreTrainedModel,
    tokenizer,
    prompts: Prompt | Iterable[Prompt],
    method: str | type[EvictionMethod] | EvictionMethod = "full",
    budget: int | None = None,
    *,
    n_samples: int = 1,
    batch_rows: int = 32,
    max_new_tokens: int = 1024,
    seed: int = 0,
    temperature: float = 0.6,
    top_p: float = 0.95,
    top_k: int = 20,
    sampling_order: str = "hf",
    think_end: str | None = THINK_END_TEXT,
    think_start: str | None = None,
    open_thought: str | None = None,
    keep_positions: bool = False,
    engine: list | None = None,
    **options: object,
) -> list[Completion]:
    """Generate replies under a KV budget.

    Args:
        prompts: a question (text, rendered by the chat template), a conversation (a list of messages with `role` and
            `content`, rendered too) or token ids; or a list of these.
        method: a name (`kvrepro list methods`), an `EvictionMethod` subclass, or a method built by `create_method`,
            which brings its budget and options with it.
        budget: slots per row; leave out for `full` and for a built method.
        n_samples: replies per prompt.
        think_end: the tag that ends the thought; None for a model that does not think.
        think_start: the tag that opens it; None takes `think_end` without its `/`.
        open_thought: what happens where the chat template does not end a prompt with that tag: `always` appends it and
            a newline, `template` leaves the prompt alone, None does too, but warns.
        keep_positions: record what every eviction kept.
        engine: pass an empty list to receive the `Engine` and with it the run's `stats`.
        options: window, ratio, evict_every, protocol and the method's own options.

    Returns:
        A list, also for one prompt: `n_samples` completions per prompt, samples of a prompt together, in the order of
        `prompts`.

    Raises:
        KvreproError: an argument of the wrong type or out of range, a prompt of no known form, a budget beside a built
            method; names what was given and what was expected.
    """
    check_loaded(model, tokenizer)
    settings = _typed_settings(locals())
    if not isinstance(engine, list | None):
        raise KvreproError(f"engine={engine!r}: expected an empty list, which receives the Engine")
    sampling = SamplingConfig(*(settings[name] for name in ("temperature", "top_p", "top_k", "sampling_order")))
    chosen = chosen_method(method, settings["budget"], options, model, tokenizer)
    vocab_size = model.get_input_embeddings().num_embeddings
    think = ThinkTags.of(tokenizer, *(settings[name] for name in ("think_end", "think_start", "open_thought")))
    prompts_ids = prompt_ids(prompts, lambda prompt: render_prompt(tokenizer, prompt, think), vocab_size)
    sizes = {name: settings[name] for name in ("batch_rows", "max_new_tokens", "seed")}
    observer = KeptPositions() if settings["keep_positions"] else None
    ends = end_token_ids(model, tokenizer)
    runner = Engine(model, chosen, think, ends, sampling=sampling, observer=observer, **sizes)
    if engine is not None:
        engine.append(runner)
    requests = [
        Request(str(i), s, tuple(ids)) for i, ids in enumerate(prompts_ids) for s in range(settings["n_samples"])
    ]
    done = {}
    for completion in runner.run(requests):
        completion.text, completion.answer_start = reply_parts(
            tokenizer, completion.token_ids, completion.n_closed, think
        )
        done[completion.request] = completion
    return [done[request] for request in requests]


def check_loaded(model: object, tokenizer: object) -> None:
    """Raise `KvreproError` for anything but a loaded model and its tokenizer."""
    loading = "model, tokenizer = kvrepro.load_model(NAME)"
    if not isinstance(model, nn.Module):
        raise KvreproError(f"model={model!r} is {type(model).__name__}, expected a loaded model: {loading}")
    if not hasattr(tokenizer, "encode"):
        raise KvreproError(f"tokenizer={tokenizer!r} is {type(tokenizer).__name__}, expected a tokenizer: {loading}")


def _typed_settings(given: dict[str, object]) -> dict[str, Any]:
    """The numbers and texts among `generate`'s arguments, each of its declared type."""
    hints, parameters = get_type_hints(generate), inspect.signature(generate).parameters
    by_name = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.name != "engine"]
    settings = {name: typed(name, given[name], hints[name]) for name in ("budget", *by_name)}
    if settings["n_samples"] < 1:
        raise KvreproError(f"n_samples={settings['n_samples']}: must be at least 1")
    return settings


def chosen_method(method: object, budget: int | None, options: dict[str, object], model, tokenizer) -> EvictionMethod:
    """The method that runs; one that is built already takes nothing more."""
    if isinstance(method, EvictionMethod):
        beside = {name: value for name, value in {"budget": budget, **options}.items() if value is not None}
        if beside:
            given = ", ".join(f"{name}={value!r}" for name, value in beside.items())
            raise KvreproError(
                f"{given} beside a built method {method.name!r}, which has its own: pass them to create_method, or "
                "pass the method's name or class here"
            )
        if method.schedule is None and method.name != "full":
            raise KvreproError(
                f"method {method.name!r} was built without a schedule, so it would never evict: pass its class and "
                "budget=..., or build it with create_method"
            )
        return method
    cls = method_class(method)
    names = ({f.name for f in fields(cls)} | _names(create_method) | _names(generate)) - {"schedule"}
    check_known(f"option of method {cls.name}", names, *options)
    return create_method(cls, budget, **{**options, **load_learned(cls, model, tokenizer, options)})


def _names(function) -> set[str]:
    """Arguments that can be given by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds}
