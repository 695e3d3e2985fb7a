"""`kvrepro.compressing`: in transformers' own loop, and in a caller's, the replies are those of `kvrepro.generate`."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from transformers import LogitsProcessor, TextStreamer, pipeline

import kvrepro
from kvrepro.engine import engine
from kvrepro.engine.batch import SAMPLING, row_key
from kvrepro.engine.decoders.fused import FusedDecoder
from kvrepro.engine.decoders.graph import GraphDecoder
from kvrepro.engine.decoders.module import ModuleDecoder
from kvrepro.engine.requests import Completion, SamplingConfig
from kvrepro.engine.sampling import sample_tokens
from kvrepro.errors import KvreproError
from kvrepro.methods.table import METHODS
from kvrepro.models.tokens import render_prompt

from ..documents import blocks

MODELS = ("tiny-r1-llama", "tiny-r1-qwen")
# sizes under which every row evicts several times, by the rule of each method
CASES = {
    "full": (None, {}),
    "window": (160, {}),
    "dynts": (160, {}),
    "h2o": (128, {"window": 32}),
    "snapkv": (128, {}),
    "rkv": (128, {}),
}
# needs a finished reply, or a period that its published form fails at
NOT_HERE = {"oracle_answer", "oracle_future", "snapkv_dynts"}
# the prompts have 68 or 69 tokens, so one row of a batch is padded
N_NEW, MOST = 160, 69 + 160


@dataclass
class Loaded:
    model: torch.nn.Module
    tokenizer: object
    prompts: list[list[int]]

    @property
    def inputs(self):
        return self.tokenizer.pad({"input_ids": self.prompts}, return_tensors="pt")

    def expected(self, method, budget, **options) -> list[Completion]:
        settings = {"max_new_tokens": N_NEW, "temperature": 0, **options}
        return kvrepro.generate(self.model, self.tokenizer, self.prompts, method, budget, **settings)

    def generated(self, method, budget, ends, options, **given) -> list[list[int]]:
        """The replies of `model.generate`, cut where the expected ones, of length `ends`, end."""
        with kvrepro.compressing(
            self.model, self.tokenizer, method, budget, rows=len(self.prompts), max_tokens=MOST, **options
        ) as cache:
            out = self.model.generate(**self.inputs, past_key_values=cache, max_new_tokens=N_NEW, **given)
        n_prompt = self.inputs["input_ids"].shape[1]
        assert all(row[n_prompt + n :].unique().tolist() in ([], [0]) for row, n in zip(out, ends, strict=True))
        return [row[n_prompt : n_prompt + n].tolist() for row, n in zip(out, ends, strict=True)]


@pytest.fixture(scope="module")
def loaded():
    found = {}
    for name in MODELS:
        model, tokenizer = kvrepro.load_model(name)
        questions = [problem.question for problem in kvrepro.load_problems("chain-12", 3)]
        found[name] = Loaded(model, tokenizer, [render_prompt(tokenizer, question) for question in questions])
        assert len({len(prompt) for prompt in found[name].prompts}) > 1, "nothing is padded"
    return found


def check_equal(case: Loaded, method, budget, options, n_evictions=1, **given):
    expected = case.expected(method, budget, **options)
    assert min(reply.evictions for reply in expected) >= n_evictions
    ids = [reply.token_ids for reply in expected]
    assert case.generated(method, budget, [len(reply) for reply in ids], options, do_sample=False, **given) == ids


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", CASES)
def test_generate_gives_the_replies_of_the_engine(loaded, name, method):
    budget, options = CASES[method]
    check_equal(loaded[name], method, budget, options, n_evictions=0 if budget is None else 2)


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(CASES) - NOT_HERE))
def test_every_other_method_gives_the_replies_of_the_engine(loaded, method):
    name = MODELS[sorted(METHODS).index(method) % 2]
    check_equal(loaded[name], method, 192, {"protocol": "fair"})


@pytest.mark.parametrize("decoder", [ModuleDecoder, FusedDecoder, GraphDecoder])
def test_every_decoder_serves(loaded, monkeypatch, decoder):
    """`auto` is the compiled step here, the graph decoder on a GPU, the model's own forward for other layouts."""
    made = []
    monkeypatch.setattr(engine, "make_decoder", lambda model, kind: made.append(decoder(model)) or made[-1])
    check_equal(loaded["tiny-r1-qwen"], "h2o", 128, {"window": 32}, n_evictions=2)
    assert len(made) == 2


def test_positions_that_a_method_takes_from_slots_are_the_engines(loaded):
    check_equal(loaded["tiny-r1-llama"], "streaming_llm", 128, {"reindex": True}, n_evictions=2)


def test_noise_is_that_of_the_engine_and_follows_the_seed(loaded):
    case = loaded["tiny-r1-llama"]
    # so few slots that the replies depend on which are drawn
    options = {"window": 16, "seed": 3}
    check_equal(case, "random", 96, options, n_evictions=4)
    first, other = (case.expected("random", 96, window=16, seed=seed) for seed in (3, 4))
    assert [reply.token_ids for reply in first] != [reply.token_ids for reply in other]


class KeyedNoise(LogitsProcessor):
    """Leaves the token that the engine would draw as the only one."""

    def __init__(self, config: SamplingConfig, rows: int, seed: int):
        self.config, self.n_drawn = config, 0
        self.keys = torch.tensor([row_key(seed, str(i), 0, SAMPLING) for i in range(rows)])

    def __call__(self, input_ids, scores):
        drawn = sample_tokens(scores, self.config, self.keys, torch.full_like(self.keys, self.n_drawn))
        self.n_drawn += 1
        return torch.full_like(scores, float("-inf")).scatter_(1, drawn[:, None], 0)


@pytest.mark.parametrize("name", MODELS)
def test_sampled_replies_are_the_engines_where_the_noise_is(loaded, name):
    case = loaded[name]
    expected = [reply.token_ids for reply in case.expected("dynts", 160, temperature=0.8, seed=5)]
    noise = KeyedNoise(SamplingConfig(temperature=0.8), len(expected), 5)
    ends = [len(reply) for reply in expected]
    assert case.generated("dynts", 160, ends, {}, logits_processor=[noise], do_sample=False) == expected
    assert expected != [reply.token_ids for reply in case.expected("dynts", 160)]


def test_full_samples_what_an_uncompressed_generate_samples(loaded):
    case = loaded["tiny-r1-qwen"]
    given = {"max_new_tokens": 40, "do_sample": True, "temperature": 1.0, "num_return_sequences": 2}
    outputs = []
    for rows in (None, 6):
        torch.manual_seed(7)
        if rows is None:
            outputs.append(case.model.generate(**case.inputs, **given))
            continue
        with kvrepro.compressing(case.model, case.tokenizer, rows=rows, max_tokens=MOST):
            outputs.append(case.model.generate(**case.inputs, **given))
    assert torch.equal(*outputs)


def test_what_generate_offers_beside_choosing_tokens_works(loaded, capsys):
    case = loaded["tiny-r1-llama"]
    one = torch.tensor(case.prompts[:1])
    [reply] = kvrepro.generate(case.model, case.tokenizer, case.prompts[0], "window", 96, temperature=0)
    with kvrepro.compressing(case.model, case.tokenizer, "window", 96) as cache:
        # the cache is the block's, named or not, and every call begins with an empty one
        for _ in range(2):
            given = {"max_new_tokens": len(reply.token_ids), "do_sample": False, "return_dict_in_generate": True}
            streamer = TextStreamer(case.tokenizer, skip_prompt=True)
            found = case.model.generate(one, streamer=streamer, output_scores=True, **given)
            assert found.sequences[0, one.shape[1] :].tolist() == reply.token_ids
            assert torch.stack(found.scores)[:, 0].argmax(-1).tolist() == reply.token_ids
            assert found.past_key_values is cache
            assert cache.lengths[0] < cache.seen[0] == one.shape[1] + len(reply.token_ids) - 1
            assert reply.text[:20] in capsys.readouterr().out
        text = case.tokenizer.decode(case.prompts[0])
        [made] = pipeline("text-generation", case.model, tokenizer=case.tokenizer)(text, max_new_tokens=5)
        assert made["generated_text"].startswith(text)
        assert cache.seen == [len(case.tokenizer.encode(text)) + 4]


@pytest.mark.parametrize("method", ["window", "h2o", "rkv", "dynts"])
def test_a_loop_that_calls_the_model_gives_the_same(loaded, method):
    case = loaded["tiny-r1-qwen"]
    budget, options = CASES[method]
    expected = [reply.token_ids for reply in case.expected(method, budget, **options)]
    replies = [[] for _ in expected]
    sizes = {"rows": 3, **options}
    with kvrepro.compressing(case.model, case.tokenizer, method, budget, **sizes) as cache:
        out = case.model(**case.inputs, past_key_values=cache)
        held = []
        for _ in range(N_NEW):
            held.append(out.logits[:, -1])
            tokens = held[-1].argmax(-1)
            for reply, token in zip(replies, tokens.tolist(), strict=True):
                reply.append(token)
            out = case.model(tokens[:, None], past_key_values=cache)
    assert [reply[: len(e)] for reply, e in zip(replies, expected, strict=True)] == expected
    # no step wrote over the logits of another
    assert torch.stack(held).argmax(-1).T.tolist() == replies
    assert not out.logits.is_inference() and not out.logits.requires_grad


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", CASES)
def test_the_loop_of_the_page_gives_the_same(loaded, name, method):
    [text] = [b.text for b in blocks("python") if b.page == "docs/own_code.md" and "def decode(" in b.text]
    names: dict[str, object] = {}
    exec(text, names)
    case, (budget, options) = loaded[name], CASES[method]
    if method == "dynts":
        options = options | {"predictor": kvrepro.load_predictor(f"{case.model.name_or_path}/importance")}
    built = kvrepro.create_method(method, budget, **options)
    expected = [reply.token_ids for reply in case.expected(built, None)]
    ends, think_end = {case.tokenizer.eos_token_id}, case.tokenizer.convert_tokens_to_ids("</think>")
    assert names["decode"](case.model, built, case.prompts, N_NEW, ends, think_end) == expected


def test_the_model_is_as_before_after_the_block_and_the_cache_is_gone(loaded):
    case = loaded["tiny-r1-llama"]
    before, attention = set(vars(case.model)), case.model.config._attn_implementation
    gc.collect()
    gc.disable()
    try:
        with kvrepro.compressing(case.model, case.tokenizer, "h2o", 128, window=32) as cache:
            case.model.generate(torch.tensor(case.prompts[:1]), max_new_tokens=90)
            assert cache.lengths != cache.seen
        with pytest.raises(ZeroDivisionError), kvrepro.compressing(case.model, case.tokenizer, "window", 96):
            raise ZeroDivisionError
        with pytest.raises(KvreproError, match=r"has evicted.*kvrepro.compressing"):
            case.model(torch.tensor([[5]]), past_key_values=cache)
        held = weakref.ref(cache)
        del cache
        assert held() is None
    finally:
        gc.enable()
    assert set(vars(case.model)) == before
    assert case.model.config._attn_implementation == attention
