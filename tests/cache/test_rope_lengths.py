"""RoPE whose frequencies depend on the length: served up to where they change, refused beyond; others at any length."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from kvrepro.cache.rotary import Rotary
from kvrepro.engine.engine import Engine
from kvrepro.engine.requests import Request, SamplingConfig
from kvrepro.errors import KvreproError
from kvrepro.methods.table import create_method
from kvrepro.models.tokens import ThinkTags
from kvrepro.training.query_statistics import measure_statistics

from ..conftest import has_compiler
from ..families import SIZES

ORIGINAL = 40
_FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [4.0, 5.0, 6.0, 7.0]}
BY_LENGTH = {
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "longrope": {"rope_type": "longrope", "original_max_position_embeddings": ORIGINAL, "factor": 4.0, **_FACTORS},
}
FIXED = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
}
PROMPTS = [list(range(20, 23)), list(range(30, 50)), list(range(60, 69))]
# the longest row ends at the original length
FITS = ORIGINAL - 20
DECODERS = [
    "module",
    "fused",
    "graph",
    pytest.param("native", marks=pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")),
]


def make(rope: dict, family: str = "llama"):
    """A small random model; `dynamic` takes its longest position as the original length."""
    torch.manual_seed(0)
    longest = 256 if rope["rope_type"] == "longrope" else ORIGINAL
    changes = {"max_position_embeddings": longest, "rope_parameters": {"rope_theta": 100.0, **rope}}
    if family == "phi3":
        # its configuration holds the original length itself
        changes["original_max_position_embeddings"] = ORIGINAL
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SIZES, **changes})).eval()


def engine_of(model, new_tokens: int, rows: int = 3, decoder: str = "auto", method: str = "full", **options) -> Engine:
    return Engine(
        model,
        create_method(method, **options),
        ThinkTags((4,)),
        (),
        sampling=SamplingConfig(0),
        batch_rows=rows,
        max_new_tokens=new_tokens,
        decoder=decoder,
    )


def replies(engine: Engine) -> list[list[int]]:
    requests = [Request(str(i), 0, tuple(prompt)) for i, prompt in enumerate(PROMPTS)]
    done = {c.request.problem_id: c.token_ids for c in engine.run(requests)}
    return [done[str(i)] for i in range(len(PROMPTS))]


def generated(model, new_tokens: int) -> list[list[int]]:
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, eos_token_id=None
            )
        found.append(out[0, len(prompt) :].tolist())
    return found


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", BY_LENGTH)
def test_up_to_the_original_length_replies_are_transformers_own(kind, decoder, monkeypatch):
    model = make(BY_LENGTH[kind])
    expected = generated(model, FITS)
    with torch.inference_mode():
        # what a longer run leaves in the module is gone
        model(input_ids=torch.tensor([list(range(20, 120))]))
    for rows, chunk in ((1, 4096), (3, 7)):
        engine = engine_of(model, FITS, rows, decoder)
        monkeypatch.setattr("kvrepro.engine.engine.PREFILL_CHUNK", chunk)
        assert replies(engine) == expected


@pytest.mark.parametrize(("family", "kind"), [("llama", "dynamic"), ("llama", "longrope"), ("phi3", "longrope")])
def test_beyond_it_nothing_is_generated(family, kind):
    seen = []
    engine = engine_of(make(BY_LENGTH[kind], family), FITS + 1)
    engine.observer.logits = lambda rows, logits: seen.append(rows)
    with pytest.raises(KvreproError, match=f"'{family}' has RoPE of type '{kind}'.* beyond 40 .* up to 41 .*max_new"):
        replies(engine)
    assert not seen


@pytest.mark.parametrize("kind", FIXED)
def test_frequencies_that_do_not_depend_on_the_length_serve_any(kind):
    model = make(FIXED[kind])
    expected = generated(model, 60)
    for rows in (1, 3):
        assert replies(engine_of(model, 60, rows)) == expected


@pytest.mark.parametrize("kind", [*BY_LENGTH, *FIXED])
def test_unrotated_keys_are_what_was_projected(kind):
    """Frequencies and the factor on cosines are the model's; what a longer run leaves in the module is gone."""
    model, caught, cache = make((BY_LENGTH | FIXED)[kind]), [], DynamicCache()
    with torch.inference_mode():
        model(input_ids=torch.tensor([list(range(20, 120))]))
    rotary = Rotary.of(model)
    hook = model.model.layers[0].self_attn.k_proj.register_forward_hook(lambda _, args, out: caught.append(out[0]))
    with torch.inference_mode():
        model(input_ids=torch.tensor([list(range(20, 20 + ORIGINAL))]), past_key_values=cache)
    hook.remove()
    plain = rotary.unrotate(cache.layers[0].keys[0], torch.arange(ORIGINAL))
    torch.testing.assert_close(plain, caught[0].unflatten(-1, (2, -1)).transpose(0, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", BY_LENGTH)
def test_reindexed_positions_never_reach_it(kind):
    options = dict(method="streaming_llm", budget=24, window=0, evict_every=4, protocol="fair", reindex=True)
    assert [len(reply) for reply in replies(engine_of(make(BY_LENGTH[kind]), 60, **options))] == [60] * 3


@pytest.mark.parametrize("kind", BY_LENGTH)
def test_statistics_need_one_set_of_frequencies(kind):
    model = make(BY_LENGTH[kind])
    measure_statistics(model, [list(range(20, 20 + ORIGINAL))])
    with pytest.raises(KvreproError, match=f"RoPE of type '{kind}'.* up to 41 tokens"):
        measure_statistics(model, [list(range(20, 21 + ORIGINAL))])


@pytest.mark.parametrize("rope", BY_LENGTH)
def test_passes_over_whole_sequences_are_held_to_the_same_length(rope):
    from kvrepro.training.judge.examples import whole_prefill
    from kvrepro.training.trace_attention import future_maxima, label_sequence

    model = make(BY_LENGTH[rope])
    for passes in (
        lambda ids: label_sequence(model, ids, len(ids) - 4),
        lambda ids: future_maxima(model, ids, 8),
        lambda ids: whole_prefill(model, ids),
    ):
        passes(list(range(20, 20 + ORIGINAL)))
        with pytest.raises(KvreproError, match=f"frequencies change beyond {ORIGINAL} tokens"):
            passes(list(range(20, 21 + ORIGINAL)))
