"""Bad input to methods: every refusal names the numbers and the way out."""

from __future__ import annotations

import pytest

import kvrepro
from kvrepro.benchmarks.chains.language import build_tokenizer
from kvrepro.errors import KvreproError
from kvrepro.methods.learned.judge import load_judge
from kvrepro.methods.learned.query_statistics import load_statistics
from kvrepro.methods.table import METHODS, create_method

from ..method_cases import COMPRESSED, build, fair

FAIR = {"window": 8, "evict_every": 6, "protocol": "fair"}
PINNING = [m for m in COMPRESSED if build(m, 60, **fair(m)).pin_question]


@pytest.mark.parametrize("method", PINNING)
def test_a_question_that_does_not_fit_names_the_sizes_and_the_ways_out(method):
    chosen = build(method, 24, **fair(method))
    room = 24 - chosen.schedule.window
    with pytest.raises(KvreproError) as caught:
        chosen.check_prompt(24)
    message = str(caught.value)
    for part in ("24 pinned tokens do not fit", "budget=24", f"so {room} can be pinned", "Raise budget", "keep_first"):
        assert part in message


def test_sinks_that_do_not_fit_are_refused_also_for_a_shorter_prompt():
    chosen = create_method("streaming_llm", 24, **FAIR, sinks=20)
    with pytest.raises(KvreproError, match="20 pinned tokens do not fit: budget=24 keeps 24 slots .* so 16"):
        chosen.check_prompt(3)


def test_random_attention_needs_something_to_draw():
    chosen = create_method("random_attention", 20, **{**FAIR, "protocol": "as_published"})
    chosen.check_prompt(19)
    with pytest.raises(KvreproError, match="prompt of 20 tokens and a buffer of 8 fill all 28 .* raise the budget"):
        chosen.check_prompt(20)


@pytest.mark.parametrize("method", [m for m in COMPRESSED if METHODS[m].only_window is None])
def test_ratio_in_the_fair_protocol_is_refused(method):
    with pytest.raises(KvreproError, match="ratio=0.4 in protocol 'fair': the budget alone says .*as_published"):
        build(method, 40, **{**fair(method), "ratio": 0.4, "evict_every": None})


@pytest.mark.parametrize("method", ["snapkv", "rkv", "gkv", "h2o", "tova", "vase_attnv", "random_attention", "sepllm"])
def test_ratio_beside_a_budget_that_remains_is_refused_as_published(method):
    with pytest.raises(KvreproError, match="ratio=0.4 and budget=400 together: .* leave ratio out"):
        build(method, 400, **{**fair(method), "protocol": "as_published", "ratio": 0.4})


@pytest.mark.parametrize("method", ["snapkv", "rkv", "gkv", "vase_attnv", "rpc"])
def test_a_window_below_the_observation_window_is_refused(method):
    with pytest.raises(KvreproError, match=f"window=8 is smaller than obs_window=9: {method} .* Raise window or lower"):
        create_method(method, 40, **FAIR, obs_window=9)


@pytest.mark.parametrize("method", ["h2o_dynts", "snapkv_dynts", "tova", "expected_attention"])
def test_a_softmax_over_all_slots_takes_any_window(method):
    create_method(method, 60, window=1, evict_every=12, protocol="fair", obs_window=2)


@pytest.mark.parametrize(("method", "tokens"), [("snapkv_dynts", 32), ("rkv_dynts", 8)])
def test_a_period_shorter_than_the_published_sum_is_refused(method, tokens):
    message = f"evictions come every 6 tokens, {method} sums .* {tokens + 2} steps .*obs_window={tokens} and 2.*Lower"
    with pytest.raises(KvreproError, match=message):
        create_method(method, 40, **FAIR)
    with pytest.raises(KvreproError, match=f"evictions come every .* {method}"):
        create_method(method, 40, window=20, ratio=0.99)


def test_nolocal_with_another_window_is_refused():
    with pytest.raises(KvreproError, match="window=5: dynts_nolocal is defined by window=1; leave it out"):
        build("dynts_nolocal", 40, **{**fair("dynts_nolocal"), "window": 5})


@pytest.mark.parametrize(
    ("method", "missing", "how"),
    [
        ("dynts", "importance predictor", "kvrepro train MODEL"),
        ("triattention", "query statistics", "kvrepro calibrate MODEL"),
        ("foresight_kv", "judge", "kvrepro train-judge MODEL"),
    ],
)
def test_a_missing_file_says_how_to_make_it(method, missing, how):
    with pytest.raises(KvreproError, match=f"{missing}.*`{how}`"):
        create_method(method, 40, **FAIR)


@pytest.mark.parametrize(
    ("load", "what"), [(load_statistics, "no query statistics"), (load_judge, "no eviction judge")]
)
def test_an_empty_folder_says_what_is_missing_and_where(tmp_path, load, what):
    with pytest.raises(KvreproError, match=f"{what}.*{tmp_path}.*model.safetensors.*with `kvrepro"):
        load(tmp_path)


@pytest.mark.parametrize("method", ["triattention", "foresight_kv"])
def test_generation_without_the_file_says_how_to_make_it(random_models, method):
    with pytest.raises(KvreproError, match="`kvrepro (calibrate|train-judge) MODEL`"):
        kvrepro.generate(random_models["llama"], build_tokenizer(), [[5, 6, 7]], method, 40, max_new_tokens=3, **FAIR)


@pytest.mark.parametrize("method", ["oracle_answer", "oracle_future"])
def test_an_oracle_cannot_generate(random_models, method):
    with pytest.raises(KvreproError, match=f"{method} .* teacher-forced mode: kvrepro.analysis.fidelity"):
        kvrepro.generate(random_models["llama"], build_tokenizer(), [[5, 6, 7]], method, 40, max_new_tokens=3, **FAIR)
    with pytest.raises(KvreproError, match=f"{method} needs the attention of a finished trace"):
        create_method(method, 40, **FAIR)


def test_separators_that_the_tokenizer_does_not_have():
    with pytest.raises(KvreproError, match=r"sepllm has no separators: .* separators=\(...\)"):
        create_method("sepllm", 40, **FAIR)


def test_reindexed_positions_need_shared_slots():
    with pytest.raises(KvreproError, match="reindex with granularity='head': .* use granularity=shared"):
        create_method("streaming_llm", 40, **FAIR, reindex=True, granularity="head")


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("rkv", {"mix": 1.5}, "mix=1.5"),
        ("gkv", {"decay": -1}, "decay=-1"),
        ("snapkv", {"pool_kernel": 4}, "be odd"),
        ("vase_attnv", {"large_share": 2}, "large_share=2"),
        ("vase_dkv", {"sketch": 0}, "sketch=0"),
        ("lazy_eviction", {"importance": 0}, "importance=0"),
        ("raas", {"refreshed_share": 0}, "refreshed_share=0"),
        ("window", {"sinks": -1}, "sinks=-1"),
        ("window", {"granularity": "row"}, "shared, layer, head"),
        ("expected_attention", {"future": 0}, "future=0"),
        ("tova", {"obs_window": 0}, "obs_window=0"),
        ("snapkv", {"group": "min"}, "max_logits, max, mean"),
        ("random", {"pin_overflow": "x"}, "error, keep_first"),
    ],
)
def test_options_out_of_range_are_named(method, options, message):
    sizes = {**FAIR, **({"obs_window": 4} if method in ("snapkv", "rkv", "gkv", "vase_attnv") else {})}
    with pytest.raises(KvreproError, match=message):
        create_method(method, 40, **{**sizes, **options})
