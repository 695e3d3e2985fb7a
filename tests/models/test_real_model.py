"""SmolLM2-135M, a real language model from the package index: engine equal to transformers, and three methods on it."""

from __future__ import annotations

import pytest
import torch

from kvrepro.models.fetching import FETCHED_MODELS
from kvrepro.models.table import model_entry
from kvrepro.paths import fetched_folder

pytestmark = pytest.mark.model
NEW_TOKENS = 200
QUESTIONS = (
    "Explain in detail how a bicycle stays upright.",
    "Write a short story about a lighthouse keeper and a storm, with a beginning, a middle and an end.",
)


@pytest.fixture(scope="module")
def smollm2():
    from kvrepro.models.fetching import is_complete
    from kvrepro.models.loading import load_model

    if not is_complete(FETCHED_MODELS["smollm2"], fetched_folder("smollm2")):
        pytest.skip("SmolLM2 is not in the cache: run `kvrepro fetch smollm2`")
    torch.set_num_threads(1)
    return load_model(model_entry("smollm2-135m"))


def replies(model, tokenizer, method: str, decoder: str = "auto", **options):
    """Greedy completions of `NEW_TOKENS` tokens; the end token is switched off so that all have this length."""
    from kvrepro.engine.engine import Engine
    from kvrepro.engine.requests import Request, SamplingConfig
    from kvrepro.methods.table import create_method
    from kvrepro.models.tokens import ThinkTags, render_prompt

    engine = Engine(
        model,
        create_method(method, **options),
        ThinkTags.of(tokenizer, None),
        (),
        sampling=SamplingConfig(0),
        batch_rows=2,
        max_new_tokens=NEW_TOKENS,
        decoder=decoder,
    )
    requests = [Request(str(i), 0, tuple(render_prompt(tokenizer, q))) for i, q in enumerate(QUESTIONS)]
    done = {c.request.problem_id: c.token_ids for c in engine.run(requests)}
    return [done[r.problem_id] for r in requests], engine, requests


def greedy(model, prompt) -> list[int]:
    """`transformers` greedy decoding of one prompt."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
            temperature=None,
            top_p=None,
            top_k=None,
        )
    return out[0, len(prompt) :].tolist()


@pytest.mark.slow
def test_engine_tokens_equal_transformers_greedy_while_the_budget_is_not_exceeded(smollm2):
    model, tokenizer = smollm2
    # two prompts of different length in one batch; the window method never evicts below its budget
    ours, engine, requests = replies(model, tokenizer, "window", budget=400)
    assert len({len(r.prompt_ids) for r in requests}) == 2
    assert engine.stats.evictions == 0
    for tokens, request in zip(ours, requests, strict=True):
        assert len(tokens) == NEW_TOKENS
        assert tokens == greedy(model, request.prompt_ids)
    # the text is a real model's: words, not noise
    assert "bicycle" in tokenizer.decode(ours[0])


@pytest.mark.slow
def test_compressed_replies_begin_like_the_full_one_and_hold_their_budget(smollm2):
    model, tokenizer = smollm2
    full, _, requests = replies(model, tokenizer, "full")
    for method in ("window", "random"):
        ours, engine, _ = replies(model, tokenizer, method, budget=160, window=32, ratio=0.5)
        assert engine.stats.kv_tokens_peak == 161
        assert engine.stats.evictions > 0
        for tokens, reference, request in zip(ours, full, requests, strict=True):
            # nothing is evicted before the budget is full
            same = 161 - len(request.prompt_ids)
            assert tokens[:same] == reference[:same]
            assert tokens != reference


def test_a_model_without_think_tags_is_refused_unless_it_is_said_to_have_none(smollm2):
    from kvrepro.errors import KvreproError
    from kvrepro.models.tokens import ThinkTags

    with pytest.raises(KvreproError, match="chat template .* never mentions '</think>'"):
        ThinkTags.of(smollm2[1])
    assert model_entry("smollm2-135m").think_end is None


def test_the_tokenizer_survived_the_conversion(smollm2):
    tokenizer = smollm2[1]
    text = "Façade: 3.14 × 2 = 6.28\n\n  def f(x):\n\treturn x"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
