"""Questions that traces are made from: generated, or a JSONL of problems; split by problem, never a benchmark's."""

from __future__ import annotations

import hashlib
import random
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from ..benchmarks.chains.problems import MOST_LINES, TASKS, sample_problem, split_of
from ..benchmarks.problem import ANSWER_KINDS
from ..benchmarks.table import benchmark_names, is_local, load_problems
from ..errors import KvreproError
from ..files import read_objects

TRAIN, HELD_OUT = "train", "held_out"
_TEXT_KEYS, _GOLD_KEYS = ("question", "problem"), ("answer", "gold")
_LEAST_PREFIX = 40  # normalised characters; a shorter question may begin a longer one by chance


@dataclass(frozen=True)
class Question:
    """One question to think about; `kind` is one of `ANSWER_KINDS` and chooses the grading rules."""

    problem_id: str
    text: str
    gold: str
    kind: str
    split: str


def normalised(text: str) -> str:
    """`text` without what a copy changes: case, spaces, dollar signs, LaTeX spacing, final punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"\\(?:left|right|displaystyle|[,;!: ])", "", text)
    return re.sub(r"[\s$~]+", "", text).rstrip(".?!:;")


def tiny_questions(
    split: str, n_problems: int, sizes: tuple[int, int], seed: int, passes: tuple[int, int] = (0, 0)
) -> list[Question]:
    """Questions of one split of the generated problems, never of the benchmarks' split; no text occurs twice.

    Args:
        sizes: fewest and most variables.
        passes: fewest and most passes of verification, of which a chain gets no more than its thought has room for.

    Raises:
        KvreproError: a split that traces may not come from.
    """
    if split not in (TRAIN, HELD_OUT):
        raise KvreproError(f"split={split!r}: traces come from 'train' or 'held_out', never from a benchmark")
    rng, questions, seen = random.Random(seed), [], set()
    while len(questions) < n_problems:
        n_variables, task = rng.randint(*sizes), rng.choice(TASKS)
        most = min(passes[1], MOST_LINES // n_variables - 1)
        problem = sample_problem(rng, n_variables, task, rng.randint(min(passes[0], most), most) if most else 0)
        text = problem.question()
        if split_of(text) == split and text not in seen:
            seen.add(text)
            kind = "choice" if problem.task == "choice" else "integer"
            questions.append(Question(f"{split}-{len(questions):05d}", text, problem.gold, kind, split))
    return questions


def read_questions(path: Path, held_out_share: float, seed: int) -> tuple[list[Question], dict[str, int]]:
    """Questions of a JSONL with the keys `question` (or `problem`), `answer` (or `gold`), and `kind` (else latex).

    The split is drawn by a hash of the normalised text, so a reworded copy of whitespace or case stays on its side.

    Returns:
        The questions in file order, and counts: `rows`, `repeated` (same normalised text, first one taken).

    Raises:
        KvreproError: no file, a line that is no such object, an empty question or answer, an unknown kind.
    """
    if not path.is_file():
        raise KvreproError(
            f"no problems in {path}: give a JSONL with the keys question, answer and optionally kind "
            f"({', '.join(ANSWER_KINDS)}), for example MATH train"
        )
    questions, seen, rows = [], set(), list(read_objects(path))
    for number, row in rows:
        text, gold, kind = _fields(row, f"{path.name}, line {number}")
        key = normalised(text)
        if key in seen:
            continue
        seen.add(key)
        draw = int.from_bytes(hashlib.sha256(f"{seed}\x1f{key}".encode()).digest()[:8], "big") / 2**64
        split = HELD_OUT if draw < held_out_share else TRAIN
        questions.append(Question(f"{path.stem}-{number:05d}", text, gold, kind, split))
    if not questions:
        raise KvreproError(f"{path} holds no problem")
    return questions, {"rows": len(rows), "repeated": len(rows) - len(questions)}


def _fields(row: Mapping[str, Any], place: str) -> tuple[str, str, str]:
    found = []
    for keys in (_TEXT_KEYS, _GOLD_KEYS):
        value = next((str(row[k]).strip() for k in keys if row.get(k) is not None), "")
        if not value:
            raise KvreproError(f"{place}: no {' or '.join(keys)}; found the keys {sorted(row)}")
        found.append(value)
    kind = row.get("kind", "latex")
    if kind not in ANSWER_KINDS:
        raise KvreproError(f"{place}: kind={kind!r}, known are {', '.join(ANSWER_KINDS)}")
    return found[0], found[1], kind


def check_leakage(
    questions: list[Question], must_check: tuple[str, ...] = (), *, ask_hub: bool = False
) -> dict[str, object]:
    """Make sure that no question is a benchmark's, by normalised text.

    A benchmark problem that begins with a question (its options follow) counts as the same.

    Args:
        must_check: benchmarks without which the check would be worth nothing.
        ask_hub: fetch benchmarks that no local folder holds; otherwise they are reported as unchecked.

    Returns:
        For the manifest: `checked` names, and `unchecked` name -> reason.

    Raises:
        KvreproError: a question is in a benchmark, or a benchmark of `must_check` could not be read.
    """
    keys = {normalised(q.text) for q in questions}
    long_keys = tuple(k for k in keys if len(k) >= _LEAST_PREFIX)
    checked, unchecked, leaks = [], {}, []
    for name in benchmark_names():
        if not ask_hub and not is_local(name):
            unchecked[name] = "no rows: KVREPRO_DATA holds none and the Hub was not asked"
            continue
        try:
            problems = load_problems(name)
        except KvreproError as error:
            unchecked[name] = str(error)[:200]
            continue
        checked.append(name)
        for p in problems:
            key = normalised(p.question)
            if key in keys or (len(key) >= _LEAST_PREFIX and key.startswith(long_keys)):
                leaks.append(f"{name}/{p.problem_id}")
    if leaks:
        raise KvreproError(
            f"{len(leaks)} of the questions are benchmark problems, for example {', '.join(leaks[:3])}: a predictor "
            "trained on them would be tested on what it has seen. Remove them from the problems"
        )
    missing = [name for name in must_check if name not in checked]
    if missing:
        raise KvreproError(
            f"the problems must be checked against {', '.join(missing)}, which cannot be read "
            f"({unchecked.get(missing[0], 'no such benchmark')}): put the rows into KVREPRO_DATA"
        )
    return {"checked": checked, "unchecked": unchecked}


def questions_hash(questions: list[Question]) -> str:
    """SHA-256 over all fields, in order; part of a trace folder's identity."""
    text = "".join("\x1f".join((*astuple(q), "")) for q in questions)
    return hashlib.sha256(text.encode()).hexdigest()
