"""The rules of docs/methods.md and docs/budgets.md written out loop by loop, from the text and not from the library.

Slow on purpose. States are dictionaries keyed by position, so nothing has to be moved when something is evicted, and
queries, keys and values come from a run over the whole sequence (`oracle.Seen`), so neither slots nor rings exist here.
"""

from __future__ import annotations

from .attention import GKV, H2O, RKV, RPC, TOVA, LazyEviction, RaaS, SnapKV, VaSEAttnV
from .dynts import (
    Bottom,
    DynTS,
    DynTSBottom,
    DynTSNoQuestion,
    H2ODynTS,
    NoThinking,
    Recent,
    RKVDynTS,
    SepLLM,
    SepLLMDynTS,
    SnapKVDynTS,
    StreamingDynTS,
    Uniform,
    WindowDynTS,
)
from .frame import Rule, simulate
from .oracles import OracleAnswer, OracleFuture, answer_labels, future_block_maxima
from .pieces import Row, r_kv_redundancy, recurrence_score
from .vectors import ExpectedAttention, ForesightKV, KeyDiff, Knorm, TriAttention, VaSEDKV, key_diff

__all__ = [
    "RULES",
    "Row",
    "Rule",
    "answer_labels",
    "future_block_maxima",
    "key_diff",
    "r_kv_redundancy",
    "recurrence_score",
    "simulate",
]

# name -> (rule, what it pins)
_QA = {"pins_question": True, "pins_answer": True}
RULES: dict[str, tuple[type[Rule], dict]] = {
    "window_dynts": (WindowDynTS, {}),
    "streaming_dynts": (StreamingDynTS, {"sinks": 10}),
    "sepllm_dynts": (SepLLMDynTS, {}),
    "h2o_dynts": (H2ODynTS, {}),
    "snapkv_dynts": (SnapKVDynTS, {}),
    "rkv_dynts": (RKVDynTS, {}),
    "window": (Recent, {}),
    "streaming_llm": (Recent, {"sinks": 4}),
    "sepllm": (SepLLM, {"sinks": 4}),
    "h2o": (H2O, {}),
    "snapkv": (SnapKV, {}),
    "rkv": (RKV, {}),
    "dynts": (DynTS, _QA),
    "dynts_random": (Uniform, {}),
    "dynts_bottom": (DynTSBottom, {}),
    "dynts_noque": (DynTSNoQuestion, {"pins_answer": True}),
    "dynts_nothink": (NoThinking, {"pins_question": True}),
    "dynts_nolocal": (DynTS, _QA),
    "random": (Uniform, _QA),
    "bottom": (Bottom, _QA),
    "question_window": (Recent, {"pins_question": True}),
    "random_attention": (Uniform, {"shared": False, "pins_question": True}),
    "vase_attnv": (VaSEAttnV, {"sinks": 4}),
    "vase_dkv": (VaSEDKV, {"sinks": 4}),
    "triattention": (TriAttention, {"pins_question": True}),
    "gkv": (GKV, {}),
    "lazy_eviction": (LazyEviction, {}),
    "foresight_kv": (ForesightKV, {}),
    "rpc": (RPC, {"pins_question": True}),
    "raas": (RaaS, {"pins_question": True}),
    "tova": (TOVA, {}),
    "keydiff": (KeyDiff, {}),
    "knorm": (Knorm, {}),
    "expected_attention": (ExpectedAttention, {"sinks": 4}),
    "oracle_answer": (OracleAnswer, _QA),
    "oracle_future": (OracleFuture, {}),
}
