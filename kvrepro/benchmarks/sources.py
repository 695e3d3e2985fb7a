"""Where the rows of the real benchmarks come from, and how each source's columns are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .problem import Benchmark


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hub: `configs` are concatenated in order; `columns` maps our names to its names.

    `id` may be absent from `columns`: ids are then the row numbers. `revision` None means the newest; the provenance
    then records the commit it stood for and the rows' hash.
    """

    hub_id: str
    configs: tuple[str | None, ...]
    split: str
    columns: Mapping[str, str]
    revision: str | None = None
    is_gated: bool = False


@dataclass(frozen=True)
class RealBenchmark(Benchmark):
    """A published benchmark. `reference_sha256` is of the normalised local file that the golds were checked with."""

    hub: HubSource = field(kw_only=True)
    reference_sha256: str | None = None
    # row number -> (gold as published, gold used); for rows whose published gold is broken
    gold_fixes: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def is_gated(self) -> bool:
        """As the Hub says."""
        return self.hub.is_gated


# Commits that several unrelated public repositories pin for these sets; the Hub itself cannot be reached from here.
# For amc23 and gk23en none was found, so they take the newest and the manifest says which commit that was.
_AIME24 = "2fe88a2f1091d5048c0f36abc874fb997b3dd99a"
_AIME25 = "a6ad95f611d72cf628a80b58bd0432ef6638f958"
_MATH500 = "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be"
_GPQA = "633f5ee89ab8ad4522a9f850766b73f62147ffdd"

_ONE = (None,)
_QA = {"problem": "question", "answer": "answer"}
_PA = {"problem": "problem", "answer": "answer"}
_GPQA_COLUMNS = {"id": "Record ID", "problem": "Question", "answer": "Correct Answer"}
_HUB = {
    "aime24": HubSource("HuggingFaceH4/aime_2024", _ONE, "train", {"id": "id", **_PA}, _AIME24),
    "aime25": HubSource("opencompass/AIME2025", ("AIME2025-I", "AIME2025-II"), "test", _QA, _AIME25),
    "amc23": HubSource("math-ai/amc23", _ONE, "test", {"id": "id", **_QA}),
    "gk23en": HubSource("MARIO-Math-Reasoning/Gaokao2023-Math-En", _ONE, "train", _QA),
    "math500": HubSource("HuggingFaceH4/MATH-500", _ONE, "test", {"id": "unique_id", **_PA}, _MATH500),
    "gpqa_d": HubSource("Idavidrein/gpqa", ("gpqa_diamond",), "train", _GPQA_COLUMNS, _GPQA, is_gated=True),
}
_GOLD_FIXES = {
    "gk23en": {
        1: (r"$-1-\sqrt{3}$", r"$-1-\sqrt{3}i$"),
        107: ("$145$solution:", "$145$"),
        167: ("", r"$\frac{3}{10}$"),
        192: ("", "A"),
        349: ("902", "901"),
    }
}

# name, title, kind, number of problems, SHA-256 of the reference file
_TABLE = (
    ("aime24", "AIME24", "integer", 30, "83ce409ec58a8c355e5eed98c880e9a3e625a214b6f598b646c95a3a1ecaff76"),
    ("aime25", "AIME25", "integer", 30, "e0f1ae0488960abda7735653031adb8f1a5b17ebe25534766231eb6e406d1d0c"),
    ("amc23", "AMC23", "integer", 40, "e1539a8d959340ff492c9805dfb5c491c8edee9ccf5599884b929352a9019873"),
    ("gk23en", "GK23EN", "latex", 385, "beb09d47e90836af97d9d0e0d5b4b5266135383b597fe63489025acd52ce5909"),
    ("math500", "MATH500", "latex", 500, "0baf4950c69ab971f1b45437b965927e5a2a8fda0d2c884c408c9b9c087fca84"),
    ("gpqa_d", "GPQA-D", "choice", 198, None),
)
REAL_BENCHMARKS: dict[str, RealBenchmark] = {
    name: RealBenchmark(
        *(name, title, kind, n_problems, _HUB[name].hub_id),
        hub=_HUB[name],
        reference_sha256=sha256,
        gold_fixes=_GOLD_FIXES.get(name, {}),
    )
    for name, title, kind, n_problems, sha256 in _TABLE
}
