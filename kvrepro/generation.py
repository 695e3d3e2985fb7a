"""`kvrepro.generate`: prompts in, completions out, under any method and budget."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, get_type_hints

from torch import nn
from transformers import PreTrainedModel

from .assets import method_assets
from .completions import Completion, Request
from .engine import Engine
from .errors import KvreproError, UnknownNameError
from .methods import create_method, method_class
from .methods.base import EvictionMethod
from .parameter_values import typed
from .prompt_forms import Prompt, listed, token_ids
from .sampling_config import SamplingConfig
from .tokens import THINK_END_TEXT, ThinkTags, render_prompt, reply_text


def end_token_ids(model: PreTrainedModel, tokenizer) -> list[int]:
    """Tokens that end a reply: the generation config's, else the tokenizer's."""
    ids = model.generation_config.eos_token_id
    ids = tokenizer.eos_token_id if ids is None else ids
    return list(ids) if isinstance(ids, list | tuple) else [] if ids is None else [ids]


def generate(
    model: PreTrainedModel, tokenizer, prompts: Prompt | Iterable[Prompt],
    method: str | type[EvictionMethod] | EvictionMethod = "full", budget: int | None = None, *, n_samples: int = 1,
    batch_rows: int = 32, max_new_tokens: int = 1024, seed: int = 0, temperature: float = 0.6, top_p: float = 0.95,
    top_k: int = 20, sampling_order: str = "hf", think_end: str | None = THINK_END_TEXT, keep_positions: bool = False,
    engine: list | None = None, **options: object,
) -> list[Completion]:  # fmt: skip
    """Generate replies under a KV budget.

    Args:
        prompts: a question (text, rendered by the chat template), a conversation (a list of messages with `role` and
            `content`, rendered too) or token ids; or a list of these.
        method: a name (`kvrepro list methods`), an `EvictionMethod` subclass, or a method built by `create_method`,
            which brings its budget and options with it.
        budget: slots per row; leave out for `full` and for a built method.
        n_samples: replies per prompt.
        think_end: the tag that ends the thought; None for a model that does not think.
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
    _check_loaded(model, tokenizer)
    settings = _typed_settings(
        budget=budget, n_samples=n_samples, batch_rows=batch_rows, max_new_tokens=max_new_tokens, seed=seed,
        temperature=temperature, top_p=top_p, top_k=top_k, sampling_order=sampling_order, think_end=think_end,
        keep_positions=keep_positions,
    )  # fmt: skip
    if not isinstance(engine, list | None):
        raise KvreproError(f"engine={engine!r}: expected an empty list, which receives the Engine")
    sampling = SamplingConfig(*(settings[name] for name in ("temperature", "top_p", "top_k", "sampling_order")))
    chosen = _chosen_method(method, settings["budget"], options, model, tokenizer)
    vocab_size = model.get_input_embeddings().num_embeddings
    prompt_ids = token_ids(listed(prompts), lambda prompt: render_prompt(tokenizer, prompt), vocab_size)
    think = ThinkTags.of(tokenizer, think_end)
    runner = Engine(
        model,
        chosen,
        think,
        end_token_ids(model, tokenizer),
        sampling=sampling,
        **{name: settings[name] for name in ("batch_rows", "max_new_tokens", "seed", "keep_positions")},
    )
    if engine is not None:
        engine.append(runner)
    requests = [
        Request(str(i), s, tuple(ids)) for i, ids in enumerate(prompt_ids) for s in range(settings["n_samples"])
    ]
    done = {}
    for completion in runner.run(requests):
        completion.text = reply_text(tokenizer, completion.token_ids, think_end)
        done[completion.request] = completion
    return [done[request] for request in requests]


def _check_loaded(model: object, tokenizer: object) -> None:
    loading = "model, tokenizer = kvrepro.load_model(NAME)"
    if not isinstance(model, nn.Module):
        raise KvreproError(f"model={model!r} is {type(model).__name__}, expected a loaded model: {loading}")
    if not hasattr(tokenizer, "encode"):
        raise KvreproError(f"tokenizer={tokenizer!r} is {type(tokenizer).__name__}, expected a tokenizer: {loading}")


def _typed_settings(**given: object) -> dict[str, Any]:
    """The numbers and texts among `generate`'s arguments, each of its declared type."""
    hints = get_type_hints(generate)
    settings = {name: typed(name, value, hints[name]) for name, value in given.items()}
    if settings["n_samples"] < 1:
        raise KvreproError(f"n_samples={settings['n_samples']}: must be at least 1")
    return settings


def _chosen_method(method: object, budget: int | None, options: dict[str, object], model, tokenizer) -> EvictionMethod:
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
    for name in options:
        if name not in names:
            raise UnknownNameError(f"option of method {cls.name}", name, names)
    return create_method(cls, budget, **{**options, **method_assets(cls, model, tokenizer, options)})


def _names(function) -> set[str]:
    """Arguments that can be given by name."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds}
