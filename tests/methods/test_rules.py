"""Every method, in both protocols, through the real engine: against docs/methods.md written out loop
by loop (`transcriptions`) and against a full cache that hides what was evicted (`oracle`).

The fair schedules run on one model family, the published ones on the other.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kvrepro.methods.base import EvictionMethod
from kvrepro.methods.table import METHODS, create_method

from .. import transcriptions
from ..method_cases import COMPRESSED, KV_HEADS, LAYERS, ORACLES, SEPARATORS, fair, published
from ..recorded import NEW_TOKENS, PROMPTS, Recording, make_requests, record

FAIR_BUDGET = 40
# budgets of the published runs: all prompts fit, and every row evicts at least twice
PUBLISHED_BUDGET = dict.fromkeys(COMPRESSED, 40) | {"rpc": 20, "random_attention": 28}
SHARED = (
    "window_dynts",
    "streaming_dynts",
    "sepllm_dynts",
    "h2o_dynts",
    "snapkv_dynts",
    "rkv_dynts",
    "window",
    "streaming_llm",
    "sepllm",
    "dynts",
    "dynts_random",
    "dynts_bottom",
    "dynts_noque",
    "dynts_nothink",
    "dynts_nolocal",
    "random",
    "bottom",
    "question_window",
    "oracle_answer",
)
PER_LAYER = ("rpc", "tova")
# one set per KV head, the same in all layers
SAME_IN_ALL_LAYERS = ("triattention",)
LONGEST = max(PROMPTS) + NEW_TOKENS


def oracle_traces(method: str) -> dict:
    """What an oracle looks up; any numbers will do, `test_golden_numbers` checks how real ones are made."""
    generator = torch.Generator().manual_seed(5)
    size = (LONGEST,) if method == "oracle_answer" else (-(-LONGEST // 16), LAYERS, KV_HEADS, LONGEST)
    return {(str(i), 0): torch.rand(size, generator=generator) for i in range(len(PROMPTS))}


def sizes_of(method: str, protocol: str) -> dict:
    """What `create_method` takes beside the name."""
    if method in ORACLES:
        return {
            "budget": FAIR_BUDGET,
            "window": 8,
            "evict_every": 6,
            "protocol": "fair",
            "traces": oracle_traces(method),
        }
    if protocol == "fair":
        return {"budget": FAIR_BUDGET, **fair(method)}
    return {"budget": PUBLISHED_BUDGET[method], **published(method)}


CASES = [(m, p) for m in COMPRESSED for p in ("fair", "as_published")] + [(m, "fair") for m in ORACLES]


@pytest.fixture(scope="module", params=CASES, ids=["-".join(case) for case in CASES])
def recording(request, random_models) -> Recording:
    method, protocol = request.param
    model = random_models["qwen2" if protocol == "fair" else "llama"]
    found = record(model, create_method(method, **sizes_of(method, protocol)), make_requests())
    found.protocol = protocol
    return found


def rule_of(
    recording: Recording, row: int, protocol: str, sizes: dict | None = None, **geometry
) -> transcriptions.Rule:
    """The transcription of the recording's method, with the numbers that the run was given.

    `geometry`: what the model does otherwise than Llama, see `transcriptions.Row`.
    """
    name = recording.method.name
    sizes = sizes_of(name, protocol) if sizes is None else sizes
    numpy = [
        [part.double().numpy() for part in parts]
        for parts in (recording.oracle[row].queries, recording.oracle[row].keys, recording.oracle[row].values)
    ]
    sequence, n_prompt = recording.sequence(row), len(recording.requests[row].prompt_ids)
    data = transcriptions.Row(
        *numpy,
        sequence,
        n_prompt,
        recording.answer_from(row),
        problem_id=recording.requests[row].problem_id,
        **geometry,
    )
    if "predictor" in sizes:
        with torch.inference_mode():
            data.importance = sizes["predictor"](recording.oracle[row].last_hidden).double().tolist()
    window = 1 if name == "dynts_nolocal" else sizes["window"]
    every, dynts_loop = sizes.get("evict_every"), every_is_missing(sizes)
    o = SimpleNamespace(
        budget=sizes["budget"],
        window=window,
        ratio=sizes.get("ratio"),
        every=every,
        protocol=protocol,
        dynts_loop=dynts_loop,
        separators=set(SEPARATORS),
        max_separators=sizes["budget"] // 4,
        block=16,
        **{k: sizes[k] for k in ("obs_window", "future", "importance", "calibration") if k in sizes},
    )
    if name == "random_attention" and protocol == "as_published":
        # K excludes the buffer of r tokens, K + r remain
        o.budget += window
    if name == "foresight_kv":
        o.period = every
        o.judge = {k: v.double().numpy() for k, v in sizes["judge"].state_dict().items()}
    if name in ORACLES:
        trace = sizes["traces"][str(row), 0].double().numpy()
        o.labels, o.future_maxima = trace, trace
    cls, pins = transcriptions.RULES[name]
    return cls(data, o, **pins)


def every_is_missing(sizes: dict) -> bool:
    """Without a period the budget itself is the trigger (docs/budgets.md#dynts-rule)."""
    return sizes.get("evict_every") is None


def test_it_selects_what_the_rule_written_out_selects(recording):
    assert max(map(len, recording.evictions)) >= 2, "one eviction alone would not show what is carried over"
    for row in range(len(PROMPTS)):
        rule = rule_of(recording, row, recording.protocol)
        expected = transcriptions.simulate(rule)
        found = recording.evictions[row]
        assert [t + 1 for t, _ in expected] == [e.seen for e in found], "evictions at the same steps"
        for number, ((_, kept), eviction) in enumerate(zip(expected, found, strict=True)):
            for layer in range(LAYERS):
                for head in range(KV_HEADS):
                    missing = sorted(set(kept[layer][head]) - set(eviction.kept[layer][head]))
                    extra = sorted(set(eviction.kept[layer][head]) - set(kept[layer][head]))
                    assert (missing, extra) == ([], []), f"row {row}, eviction {number}, layer {layer}, head {head}"


def test_logits_equal_a_full_cache_that_hides_what_was_evicted(recording):
    for row in range(len(PROMPTS)):
        assert recording.hidden[row].any(), "nothing was evicted, so nothing was tested"
        torch.testing.assert_close(recording.logits[row], recording.expected[row], atol=2e-5, rtol=2e-5)


def test_positions_and_carried_state_stay_with_their_slot(recording):
    for row, evictions in enumerate(recording.evictions):
        n_prompt = len(recording.requests[row].prompt_ids)
        before = [[list(range(n_prompt))] * KV_HEADS] * LAYERS
        seen = n_prompt
        for eviction in evictions:
            for layer in range(LAYERS):
                for head in range(KV_HEADS):
                    # what was kept and what came since, in order: nothing returns, nothing is held twice
                    assert eviction.held[layer][head] == [*before[layer][head], *range(seen, eviction.seen)]
                    kept = eviction.kept[layer][head]
                    assert kept == sorted(set(kept))
                    assert eviction.tags[layer, head].tolist() == kept
            before, seen = eviction.kept, eviction.seen
        # the stored positions and keys at the end of the run; keys of the first layer depend on nothing else
        total = n_prompt + NEW_TOKENS - 1
        keys = recording.oracle[row].keys[0]
        for layer in range(LAYERS):
            for head in range(KV_HEADS):
                held = [*before[layer][head], *range(seen, total)]
                stored = recording.cache.positions.expand(LAYERS, -1, KV_HEADS, -1)[layer, row, head, : len(held)]
                assert stored.tolist() == held
                if layer == 0:
                    torch.testing.assert_close(
                        recording.cache.kv[0, 0, row, head, : len(held)], keys[head, held], atol=1e-5, rtol=1e-5
                    )


def expected_sizes(recording: Recording, row: int, number: int) -> tuple[int, int]:
    """Length that evicts, and length after it, from the text of docs/budgets.md; the second is a maximum for SepLLM."""
    name, sizes = recording.method.name, sizes_of(recording.method.name, recording.protocol)
    budget, every, n_prompt = sizes["budget"], sizes.get("evict_every"), PROMPTS[row]
    window = 1 if name == "dynts_nolocal" else sizes["window"]
    if recording.protocol == "fair":
        return budget + every, budget
    if name == "rpc":
        return n_prompt + number * (budget // 4) + budget + window, n_prompt + (number + 1) * (budget // 4) + window
    if name == "random_attention":
        return budget + window + every, budget + window
    own = {
        "window_dynts": window,
        "streaming_dynts": window + 10,
        "dynts_nothink": n_prompt + window,
        "sepllm": 4 + budget // 4 + window,
    }
    if every is not None:
        return budget + every, budget
    return budget + 1, own.get(name, window + int(np.floor(sizes.get("ratio", 0) * (budget + 1 - window) + 1e-9)))


def test_length_never_exceeds_what_is_declared(recording):
    method = recording.method
    for row, evictions in enumerate(recording.evictions):
        for number, eviction in enumerate(evictions):
            length, kept = expected_sizes(recording, row, number)
            assert len(eviction.held[0][0]) == length == method.peak_slots(PROMPTS[row], number)
            if "sepllm" in method.name and recording.protocol == "as_published":
                assert len(eviction.kept[0][0]) <= kept
            else:
                assert len(eviction.kept[0][0]) == kept
    lengths = [len(e.held[0][0]) for evictions in recording.evictions for e in evictions]
    grows = method.name == "rpc" and recording.protocol == "as_published"
    assert (len(set(lengths)) > 1) == grows, "only rpc as published grows"
    assert recording.cache.peak_tokens <= recording.cache.capacity
    if not grows:
        assert recording.cache.peak_tokens == max(lengths)


def test_what_is_declared_pinned_stays(recording):
    method = recording.method
    overflow = 0
    for row, evictions in enumerate(recording.evictions):
        for eviction in evictions:
            window = method.schedule.window
            for layer in range(LAYERS):
                for head in range(KV_HEADS):
                    kept = eviction.kept[layer][head]
                    assert set(range(eviction.seen - window, eviction.seen)) <= set(kept), "the window"
                    first = max(method.sinks, PROMPTS[row] if method.pin_question else 0)
                    assert set(range(first)) <= set(kept), "sinks and question"
            mine = eviction.held[0][0][: len(eviction.held[0][0]) - window]
            answer = [j for j in mine if j >= recording.answer_from(row)] if method.pin_answer else []
            room = len(eviction.kept[0][0]) - window - first
            # answer tokens that do not fit go from the end, and are counted
            assert set(answer[:room]) <= set(eviction.kept[0][0])
            overflow += max(0, len([j for j in answer if j >= first]) - room)
    assert recording.overflow == overflow


def test_slots_are_shared_as_declared(recording):
    name, kept = recording.method.name, [e.kept for evictions in recording.evictions for e in evictions]
    heads_differ = any(layer[0] != layer[1] for one in kept for layer in one)
    layers_differ = any(one[0][head] != one[1][head] for one in kept for head in range(KV_HEADS))
    declared = "shared" if name in SHARED else "layer" if name in PER_LAYER else "head"
    assert recording.method.granularity == declared
    assert heads_differ == (declared == "head")
    assert layers_differ == (declared != "shared" and name not in SAME_IN_ALL_LAYERS)


def test_every_method_has_a_transcription():
    assert set(transcriptions.RULES) == set(METHODS) - {"full"}
    assert issubclass(type(create_method("window", 40)), EvictionMethod)
