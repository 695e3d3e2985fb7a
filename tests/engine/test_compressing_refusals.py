"""What `kvrepro.compressing` does not serve is refused in one line; nothing runs on uncompressed."""

from __future__ import annotations

import pytest
import torch
from transformers import CompileConfig, DynamicCache, GenerationConfig

import kvrepro
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.engine.compressing import REFUSED
from kvrepro.errors import KvreproError, UnknownNameError

from ..conftest import make_random_model

IDS = torch.tensor([[5, 60, 7, 80, 9, 11]])
TWO = IDS.repeat(2, 1)
PADDED = torch.tensor([[0, 0, 5, 60, 7, 80]])


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def block(random_model, tokenizer):
    """A block over a cache that evicts at 18 tokens."""

    def enter(model=random_model, method="window", budget=16, **given):
        sizes = {} if budget is None else {"window": 4, "evict_every": 2}
        return kvrepro.compressing(model, tokenizer, method, budget, **sizes, **given)

    return enter


# what is given to `generate`, one for each that is refused
GIVEN = {
    "num_beams": 2,
    "assistant_model": None,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "use_mtp": True,
    "penalty_alpha": 0.6,
    "guidance_scale": 2.0,
    "dola_layers": "low",
    "output_attentions": True,
    "output_hidden_states": True,
    "use_cache": False,
    "cache_implementation": "static",
    "prefill_chunk_size": 5,
    "token_healing": True,
    "inputs_embeds": torch.zeros(1, 6, 48),
    "labels": IDS,
    "return_dict": False,
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_generate_cannot_have_is_refused_before_it_begins(block, random_model, name):
    value = random_model if name == "assistant_model" else GIVEN[name]
    with block() as cache:
        with pytest.raises(KvreproError, match=rf"generate was called with {name}=.*does not serve: \w+") as raised:
            random_model.generate(IDS, max_new_tokens=20, **{name: value})
        assert "\n" not in str(raised.value)
        assert cache.lengths == []


def test_it_is_refused_too_where_a_generation_config_says_it(block, random_model):
    with block():
        for config in (GenerationConfig(num_beams=2), GenerationConfig(cache_implementation="paged")):
            with pytest.raises(KvreproError, match="does not serve"):
                random_model.generate(IDS, config)
            with pytest.raises(KvreproError, match="does not serve"):
                random_model.generate(IDS, generation_config=config)


def test_harmless_values_are_taken(block, random_model):
    given = {name: harmless[0] for name, (harmless, _) in REFUSED.items() if harmless}
    given = {name: value for name, value in given.items() if name not in ("penalty_alpha", "return_dict", "use_mtp")}
    with block() as cache:
        random_model.generate(IDS, max_new_tokens=30, min_new_tokens=30, **given, compile_config=CompileConfig())
        assert cache.seen == [35] > cache.lengths


def test_what_a_call_of_the_model_cannot_have_is_refused(block, random_model):
    cases = [
        ({"labels": IDS}, "called with labels=Tensor"),
        ({"return_dict": False}, "called with return_dict=False"),
        ({"past_key_values": None}, "past_key_values=cache"),
        ({"past_key_values": DynamicCache()}, "past_key_values=cache"),
        ({"input_ids": None}, "input_ids=None: expected token ids"),
        ({"input_ids": IDS[0]}, "expected token ids"),
        ({"input_ids": IDS[:, :0]}, "a prompt is empty"),
        ({"input_ids": TWO}, r"2 sequences, room for rows=1"),
        ({"input_ids": IDS.repeat(1, 3)}, "the prompt has 18 tokens, more than budget=16"),
        ({"attention_mask": PADDED.flip(1) > 0}, "padded on the left"),
        ({"attention_mask": (PADDED.flip(1) > 0).long()}, "padded on the left"),
        ({"attention_mask": torch.tensor([[1, 1, 0, 1, 1, 1]])}, "padded on the left"),
        ({"attention_mask": torch.ones(1, 1, 6, 6)}, "padded on the left"),
        ({"attention_mask": torch.zeros(1, 6, dtype=torch.int64)}, "a prompt is empty"),
        ({"position_ids": torch.arange(6)[None] + 1}, r"position_ids count \[7\] tokens, the cache \[6\]"),
    ]
    for given, message in cases:
        with block() as cache, pytest.raises(KvreproError, match=message):
            random_model(**{"input_ids": IDS, "past_key_values": cache, **given})


def test_what_a_further_call_cannot_have_is_refused(block, random_model):
    cases = [
        (IDS, {}, r"tokens \[1, 6\] for a cache that holds 1 sequences: .*cache.reset"),
        (TWO[:, :1], {}, r"tokens \[2, 1\] for a cache that holds 1"),
        (IDS[:, :1], {"position_ids": torch.tensor([[3]])}, r"position_ids count \[4\] tokens, the cache \[7\]"),
        (IDS[:, :1], {"attention_mask": torch.tensor([[1]])}, r"attention_mask counts \[1\] tokens, the cache \[7\]"),
    ]
    for ids, given, message in cases:
        with block() as cache:
            random_model(IDS, past_key_values=cache)
            with pytest.raises(KvreproError, match=message):
                random_model(ids, past_key_values=cache, **given)
            # what was refused has left nothing behind
            assert (cache.lengths, cache.seen) == ([6], [6])
            random_model(
                IDS[:, :1],
                past_key_values=cache,
                position_ids=torch.tensor([[6]]),
                attention_mask=torch.ones(1, 7, dtype=torch.int64),
            )


def test_left_padding_is_no_part_of_a_prompt(block, random_model):
    with block() as cache:
        padded = random_model(PADDED, attention_mask=(PADDED > 0).long(), past_key_values=cache).logits
        assert (cache.lengths, cache.seen) == ([4], [4])
        cache.reset()
        assert torch.equal(padded, random_model(PADDED[:, 2:], past_key_values=cache).logits)


def test_there_are_no_gradients(block, random_model):
    with block() as cache, pytest.raises(RuntimeError, match="does not require grad"):
        random_model(IDS, past_key_values=cache).logits.sum().backward()


def test_a_reply_that_outgrows_the_cache_is_an_error(block, random_model):
    for method, budget in (("full", None), ("window", 16)):
        with block(method=method, budget=budget, max_tokens=20) as cache:
            # the last token of a reply is not fed
            random_model.generate(IDS, max_new_tokens=15, min_new_tokens=15)
            with pytest.raises(KvreproError, match="21 tokens, room for max_tokens=20"):
                random_model.generate(IDS, max_new_tokens=16, min_new_tokens=16)
            assert cache.capacity == (20 if budget is None else 18)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "full", "budget": None}, "'full' may keep every token: say max_tokens"),
        ({"rows": 0}, "rows=0"),
        ({"rows": 2.5}, "rows=2.5 is float, expected int"),
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"budget": "16"}, "budget='16' is str"),
        ({"seed": None}, "seed=None"),
        ({"obs_windo": 3}, "unknown option of method window"),
        ({"method": "oracle_answer"}, "oracle_answer looks into the future of a finished trace"),
        ({"think_end": "</nothing>"}, "does not know '</nothing>'"),
    ],
)
def test_arguments_are_checked(block, given, message):
    with pytest.raises((KvreproError, UnknownNameError), match=message), block(**given):
        pass


def test_models_whose_forward_would_not_be_reached_are_refused(block):
    model = make_random_model("llama")
    with pytest.raises(KvreproError, match="wrapped or compiled"), block(torch.nn.DataParallel(model)):
        pass
    model.compile()
    with pytest.raises(KvreproError, match="LlamaForCausalLM, wrapped or compiled"), block(model):
        pass
    with pytest.raises(KvreproError, match="expected a loaded model"), block("tiny-r1-llama"):
        pass


def test_a_text_beyond_fixed_frequencies_is_refused(block):
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    model = make_random_model("llama", max_position_embeddings=24, rope_parameters=rope)
    with block(model) as cache, pytest.raises(KvreproError, match="beyond 24 tokens; sequences of up to 25"):
        model.generate(IDS, max_new_tokens=30, min_new_tokens=30)
    assert cache.seen == [24]
