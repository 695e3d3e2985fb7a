"""One row per method: what it needs to run on the small random models, and what it declares about itself.

A new method is one row here and one transcription; every test of all methods takes its cases from this table.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from kvrepro.methods.learned.importance import ImportancePredictor, PredictorShape
from kvrepro.methods.learned.query_statistics import QueryStatistics
from kvrepro.methods.table import METHODS, create_method

# of the small models in conftest
LAYERS, Q_HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 2, 6, 2, 8, 48
SEPARATORS = tuple(range(20, 60))


@dataclass(frozen=True)
class MethodCase:
    """Options beside the schedule, and the published schedule that suits prompts of 5 to 29 tokens."""

    options: dict = field(default_factory=dict)
    published: dict = field(default_factory=lambda: {"window": 8, "ratio": 0.7})
    needs: tuple[str, ...] = ()


_REMAINS = {"window": 8, "evict_every": 6}
_QUERIES = {"obs_window": 4}

CASES: dict[str, MethodCase] = {
    "window_dynts": MethodCase(published={"window": 34}),
    "streaming_dynts": MethodCase(published={"window": 30}),
    "sepllm_dynts": MethodCase({"separators": SEPARATORS}),
    "h2o_dynts": MethodCase(),
    "snapkv_dynts": MethodCase({"obs_window": 3}),
    "rkv_dynts": MethodCase({"obs_window": 3}),
    "window": MethodCase(),
    "streaming_llm": MethodCase(published=_REMAINS),
    "sepllm": MethodCase({"separators": SEPARATORS}, published={"window": 8}),
    "h2o": MethodCase(published=_REMAINS),
    "snapkv": MethodCase(_QUERIES, published=_REMAINS),
    "rkv": MethodCase(_QUERIES, published=_REMAINS),
    "dynts": MethodCase(needs=("predictor",)),
    "dynts_random": MethodCase(),
    "dynts_bottom": MethodCase(needs=("predictor",)),
    "dynts_noque": MethodCase(needs=("predictor",)),
    "dynts_nothink": MethodCase(published={"window": 12}),
    "dynts_nolocal": MethodCase(published={"ratio": 0.7}, needs=("predictor",)),
    "random": MethodCase(),
    "bottom": MethodCase(needs=("predictor",)),
    "question_window": MethodCase(),
    "random_attention": MethodCase(published=_REMAINS),
    "vase_attnv": MethodCase(_QUERIES, published=_REMAINS),
    "vase_dkv": MethodCase(published=_REMAINS),
    "triattention": MethodCase(published=_REMAINS, needs=("calibration",)),
    "gkv": MethodCase(_QUERIES, published=_REMAINS),
    "lazy_eviction": MethodCase({"importance": 0.1}, published=_REMAINS),
    "foresight_kv": MethodCase(published=_REMAINS, needs=("judge",)),
    "rpc": MethodCase(_QUERIES, published={"window": 8, "ratio": None}),
    "raas": MethodCase(published=_REMAINS),
    "tova": MethodCase(published={"window": 0, "evict_every": 1}),
    "keydiff": MethodCase(published=_REMAINS),
    "knorm": MethodCase(published=_REMAINS),
    "expected_attention": MethodCase({"obs_window": 8, "future": 16}, published=_REMAINS),
}
ORACLES = ("oracle_answer", "oracle_future")
COMPRESSED = list(CASES)
# the published budget at which a row of a short prompt evicts several times within 60 tokens
BUDGET = 48


def assets(needs: tuple[str, ...]) -> dict:
    """Random stand-ins: the engine must hold for any scores."""
    torch.manual_seed(1)
    found: dict = {}
    if "predictor" in needs:
        found["predictor"] = ImportancePredictor(PredictorShape(HIDDEN, 16, 8))
    if "calibration" in needs:
        mean = torch.randn(LAYERS, Q_HEADS, HEAD_DIM // 2, dtype=torch.complex64)
        found["calibration"] = QueryStatistics(mean, mean.abs() + 0.5)
    if "judge" in needs:
        from kvrepro.methods.learned.judge import EvictionJudge

        found["judge"] = EvictionJudge(LAYERS, KV_HEADS, HEAD_DIM, Q_HEADS // KV_HEADS)
    return found


def options(method: str) -> dict:
    """What `kvrepro.generate` or `create_method` takes beside the schedule."""
    case = CASES.get(method, MethodCase())
    return {**case.options, **assets(case.needs)}


def fair(method: str, **sizes) -> dict:
    """Options and the fair schedule that the tests share."""
    chosen = {"window": 8, "evict_every": 6, "protocol": "fair", **sizes}
    if METHODS[method].only_window is not None:
        chosen["window"] = METHODS[method].only_window
    return {**options(method), **chosen}


def published(method: str) -> dict:
    """Options and the published schedule of the table."""
    return {**options(method), "protocol": "as_published", **CASES[method].published}


def build(method: str, budget: int, **kwargs):
    """The method itself."""
    return create_method(method, budget, **kwargs)
