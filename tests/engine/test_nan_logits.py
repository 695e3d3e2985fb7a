"""Logits that are not finite: the row ends with a status of its own, and no other row notices."""

from __future__ import annotations

import copy
import random
import warnings

import pytest
import torch

from kvrepro.engine.engine import Engine
from kvrepro.engine.observer import KeptPositions
from kvrepro.engine.requests import NAN_LOGITS, Request, SamplingConfig
from kvrepro.methods.table import create_method
from kvrepro.models.tokens import ThinkTags

from ..conftest import has_compiler, make_random_model
from ..method_cases import BUDGET, COMPRESSED, build, fair

PROMPTS = [[1, *random.Random(i).choices(range(20, 120), k=6 + 5 * i)] for i in range(5)]
DECODERS = ["fused", "module", "graph", *(["native"] if has_compiler() else [])]


def run(model, method="full", *, forced=None, decoder="fused", **settings):
    """Replies by problem, three rows at a time, and the engine."""
    sizes = {} if method == "full" else {"budget": BUDGET, **fair(method)}
    settings = {"delay_steps": None, "sampling": SamplingConfig(1.0, 1.0, 0), "max_new_tokens": 44} | settings
    engine = Engine(model, create_method(method, **sizes), ThinkTags(()), (), batch_rows=3, decoder=decoder, **settings)
    requests = [Request(str(i), 0, tuple(p), None if forced is None else forced[i]) for i, p in enumerate(PROMPTS)]
    return {int(c.request.problem_id): c for c in engine.run(requests)}, engine


def poisoned(model, token: int):
    """The model, but NaN wherever it reads `token`."""
    broken = copy.deepcopy(model)
    broken.get_input_embeddings().weight.data[token] = float("nan")
    return broken


@pytest.fixture(scope="module")
def model():
    return make_random_model("llama")


def bad_token(replies) -> int:
    """A token that one or two replies hold, in their middle."""
    firsts = {}
    for i, reply in replies.items():
        for at, token in enumerate(reply.token_ids):
            firsts.setdefault(token, {}).setdefault(i, at)
    prompts = {token for prompt in PROMPTS for token in prompt}
    found = [
        token
        for token, places in firsts.items()
        if token not in prompts and len(places) < 3 and all(20 < at < 36 for at in places.values())
    ]
    return found[0]


@pytest.mark.parametrize("method", ["full", "random", "rkv", "h2o"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_only_the_row_without_finite_logits_ends(model, method, decoder):
    sound, _ = run(model, method, decoder=decoder)
    token = bad_token(sound)
    broken = poisoned(model, token)
    for delay in (0, 4):
        with pytest.warns(RuntimeWarning, match=r"[12] replies ended with status nan_logits .* float32 were not fin"):
            found, engine = run(broken, method, decoder=decoder, delay_steps=delay)
        assert {c.status for c in found.values()} == {NAN_LOGITS, "length_limit"}
        for i, completion in found.items():
            expected = sound[i].token_ids
            if token in expected:
                assert completion.status == NAN_LOGITS
                # the token that broke it was drawn from sound logits
                assert completion.token_ids == expected[: expected.index(token) + 1]
                assert completion.peak_tokens <= sound[i].peak_tokens
            else:
                assert (completion.token_ids, completion.status) == (expected, "length_limit")
        assert not engine.method.schedule or engine.stats.evictions


@pytest.mark.parametrize("sampling", [SamplingConfig(0.0), SamplingConfig(0.6, 0.95, 20, "dynts")])
def test_a_prompt_without_finite_logits_gives_an_empty_reply(model, sampling):
    broken = poisoned(model, PROMPTS[2][-1])
    spoiled = {i for i, prompt in enumerate(PROMPTS) if PROMPTS[2][-1] in prompt}
    with pytest.warns(RuntimeWarning, match=f"{len(spoiled)} replies ended"):
        found, _ = run(broken, sampling=sampling, max_new_tokens=1)
    assert {i for i, c in found.items() if c.status == NAN_LOGITS} == spoiled
    for i in spoiled:
        assert (found[i].token_ids, found[i].n_answer_tokens, found[i].peak_tokens) == ([], 0, len(PROMPTS[i]))


def test_a_forced_reply_ends_too(model):
    sound, _ = run(model, "random")
    token = bad_token(sound)
    forced = {i: tuple(c.token_ids) for i, c in sound.items()}
    with pytest.warns(RuntimeWarning, match="nan_logits"):
        found, _ = run(poisoned(model, token), "random", forced=forced)
    for i, completion in found.items():
        assert (completion.status == NAN_LOGITS) == (token in forced[i])


@pytest.mark.parametrize(("method", "delay"), [*((m, 0) for m in COMPRESSED), ("rkv", 4), ("h2o", 4)])
def test_a_row_whose_logits_break_as_it_evicts_counts_no_eviction(model, method, delay):
    """It evicts together with rows that do not break; what they keep and draw afterwards is what it was."""
    found, chosen = [], build(method, BUDGET, **fair(method, pin_overflow="keep_first"))
    prompts = [(1, *random.Random(i).choices(range(20, 120), k=9)) for i in range(3)]
    # the second eviction of row 1 comes with its last token but seven
    last = chosen.schedule.peak_tokens - 10 + chosen.schedule.period_steps
    forced = [tuple(random.Random(9 + i).choices(range(20, 120), k=last + 7)) for i in range(3)]
    forced[1] = (*forced[1][: last - 1], 200, *forced[1][last:])
    for broken in (model, poisoned(model, 200)):
        engine = Engine(
            broken,
            chosen,
            ThinkTags(()),
            (),
            sampling=SamplingConfig(),
            batch_rows=3,
            max_new_tokens=99,
            decoder="fused",
            delay_steps=delay,
            observer=KeptPositions(),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            done = engine.run(Request(str(i), 0, p, f) for i, (p, f) in enumerate(zip(prompts, forced, strict=True)))
            found.append({int(c.request.problem_id): c for c in done})
        replies = found[-1].values()
        assert engine.stats.evictions == sum(c.evictions for c in replies)
        assert engine.stats.pin_overflow_tokens == sum(c.pin_overflow_tokens for c in replies)
    sound, ended = found
    assert {i: c.status for i, c in ended.items()} == {0: "ok", 1: NAN_LOGITS, 2: "ok"}
    assert (sound[0], sound[2]) == (ended[0], ended[2])
    assert sound[0].evictions == 3 and ended[1].evictions == 1
    assert ended[1].kept_positions == sound[1].kept_positions[:1]
    assert (ended[1].peak_tokens, len(ended[1].token_ids)) == (chosen.schedule.peak_tokens, last)


def test_a_masked_vocabulary_is_finite(model):
    """-inf for single tokens is how a vocabulary is masked."""
    masked = copy.deepcopy(model)
    head = masked.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    head.bias.data[::2] = float("-inf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, _ = run(masked)
    assert {c.status for c in found.values()} == {"length_limit"}
    assert all(token % 2 for c in found.values() for token in c.token_ids)


def test_a_float16_overflow_is_noticed():
    """Weights that overflow where float16 ends: what happens with bfloat16 checkpoints that are loaded as float16."""
    model = make_random_model("llama").to(torch.float16)
    model.model.norm.weight.data.fill_(60000.0)
    with pytest.warns(RuntimeWarning, match=r"5 replies .* float16 were not finite. Run it in bfloat16 or float32"):
        found, _ = run(model, decoder="module")
    assert {c.status for c in found.values()} == {NAN_LOGITS}
    wide = model.to(torch.bfloat16)
    found, _ = run(wide, decoder="module")
    assert {c.status for c in found.values()} == {"length_limit"}


def test_nothing_is_compared_along_a_trace_whose_logits_are_not_finite(model):
    from kvrepro.analysis.fidelity import measure_fidelity
    from kvrepro.errors import KvreproError
    from tests.analysis.test_fidelity import TRACES

    broken = poisoned(model, TRACES[1].reply_ids[30])
    method = create_method("window", BUDGET, **fair("window"))
    with (
        pytest.warns(RuntimeWarning, match="nan_logits"),
        pytest.raises(KvreproError, match=r"along \d of 3 traces \(.*b.*\) are not finite in torch.float32"),
    ):
        measure_fidelity(broken, TRACES, method)


def test_a_model_without_finite_logits_answers_from_no_part_of_a_thought(model):
    from kvrepro.analysis.kept_thoughts import answers_from_parts
    from kvrepro.benchmarks.chains.language import build_tokenizer
    from kvrepro.errors import KvreproError
    from kvrepro.training.traces import Trace

    trace = Trace([1, *range(20, 40)], 4, 14, 15, "p", gold="7")
    with pytest.raises(KvreproError, match="logits in torch.float32 are not finite"):
        answers_from_parts(
            poisoned(model, 25), build_tokenizer(), [(trace, {"label": torch.rand(10)})], [1.0], max_new_tokens=4
        )


def test_a_summary_says_which_cells_hold_such_replies(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from kvrepro.runs.config import CellConfig
    from kvrepro.runs.profiles import Profile
    from kvrepro.runs.summary import summarise_profile

    config = CellConfig(model="r1-llama", benchmark="chain-12")
    manifest = {"cell_id": config.cell_id, "status": {"ok": 5, NAN_LOGITS: 3}, "n_records": 8}
    monkeypatch.setattr(Profile, "folders", [SimpleNamespace(is_complete=True, path=tmp_path)])
    monkeypatch.setattr("kvrepro.runs.summary.read_manifest", lambda path: manifest)
    monkeypatch.setattr("kvrepro.runs.summary.summary_row", lambda *_: {})
    with pytest.warns(RuntimeWarning, match=f"{config.cell_id}: 3 of 8 replies ended with status nan_logits"):
        summarise_profile(Profile("single", "", (config,)))
