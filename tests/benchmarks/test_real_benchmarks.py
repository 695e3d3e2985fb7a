"""The six published benchmarks from a local folder: what is checked, shuffled, rendered and recorded."""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from kvrepro.benchmarks import real
from kvrepro.benchmarks.overlap import same_problems
from kvrepro.benchmarks.prompts import DEEPSEEK_SUFFIX, option_order, prompt_hash, shuffled_question, user_message
from kvrepro.benchmarks.real import load_real, load_with_provenance
from kvrepro.benchmarks.sources import REAL_BENCHMARKS
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.scores.known_scores import is_far, known_scores
from kvrepro.scores.statistics import Interval

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the data sets lie beside the checkout and are not there")
LOCAL = [name for name in REAL_BENCHMARKS if name != "gpqa_d"]


def rows(n=30):
    return [{"id": f"q{i}", "problem": f"What is {i}?", "answer": str(i)} for i in range(n)]


def write(folder, name, lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@needs_data
@pytest.mark.parametrize("name", LOCAL)
def test_published_rows_load_with_their_provenance(name):
    problems, origin = load_with_provenance(name, data_dir=DATA)
    entry = REAL_BENCHMARKS[name]
    assert len(problems) == entry.n_problems == origin["n_rows"]
    assert origin["is_reference"]
    assert origin["source"] == f"file:{name}.jsonl"
    assert str(DATA) not in json.dumps(origin)
    assert origin["prompts_sha256"] == prompt_hash(p.question for p in problems)
    _, other = load_with_provenance(name, data_dir=DATA, prompt_style="deepseek")
    assert other["prompts_sha256"] != origin["prompts_sha256"]


@needs_data
def test_gk23en_and_amc23_share_problems():
    sets = {name: load_real(name, data_dir=DATA) for name in ("gk23en", "amc23")}
    shared = same_problems(sets)
    pairs = Counter(shared.values())
    assert set(pairs.values()) == {2}
    # read side by side: the three others are not among the 64 rows
    alone = {p.problem_id for p in sets["amc23"] if ("amc23", p.problem_id) not in shared}
    assert alone == {"2023-12A-4", "2023-12A-19", "2023-12A-20"}
    # Alicia and Beth are called Alice and Barbara in the other set, and the golds differ in form
    assert shared["amc23", "2023-12A-1"] == shared["gk23en", "gk23en-296"]
    assert shared["amc23", "2023-12B-17"] == shared["gk23en", "gk23en-356"]
    assert same_problems({"amc23": sets["amc23"]}) == {}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (rows(29), "29 rows"),
        (rows(29) + rows(1), "more than once"),
        ([*rows(29), {"id": "x", "problem": "What?", "answer": " "}], "empty"),
        ([*rows(29), {"id": "x", "question_text": "What?", "answer": "1"}], "no column"),
        ([*rows(29), {"id": "x", "problem": "", "answer": "1"}], "no text"),
        ([*rows(29), '{"id": "x", "probl'], "not JSON"),
        ([*rows(29), "[1]"], "expected an object"),
    ],
)
def test_wrong_rows_are_named_errors(tmp_path, lines, message):
    with pytest.raises(KvreproError, match=message):
        load_real("aime24", data_dir=write(tmp_path, "aime24", lines))


def test_a_missing_file_and_a_missing_hub_say_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(KvreproError, match="KVREPRO_DATA"):
        load_real("aime24", data_dir=tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(KvreproError, match="work offline"):
        load_real("aime24")
    with pytest.raises(UnknownNameError, match="math500"):
        load_real("aime23", data_dir=tmp_path)


class FakeHub:
    """Stands in for `datasets`: rows, or the error that loading raises."""

    def __init__(self, rows=None, error=None):
        self.rows, self.error, self.revisions = rows, error, []

    def load_dataset(self, hub_id, config, split, revision):
        if self.error:
            raise self.error
        self.revisions.append(revision)
        return FakeSplit(self.rows)


class FakeSplit(list):
    @property
    def column_names(self):
        return list(self[0])


@pytest.fixture(autouse=True)
def no_commit(monkeypatch):
    """No test asks the Hub which commit a revision is."""
    monkeypatch.setattr(
        real, "resolved_commit", lambda hub_id, revision: (None, "ConnectionError: no network in tests")
    )


def test_the_hub_is_asked_for_one_commit_which_is_recorded(monkeypatch):
    hub = FakeHub([{"question": f"Q{i}", "answer": str(i)} for i in range(15)])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    monkeypatch.setattr(real, "resolved_commit", lambda hub_id, revision: (f"{hub_id}@{revision}", None))
    _, origin = load_with_provenance("aime25", revision="v1")
    assert hub.revisions == ["opencompass/AIME2025@v1"] * 2
    assert (origin["revision"], origin["commit"]) == ("v1", "opencompass/AIME2025@v1")


def test_an_unknown_commit_says_why_and_the_revision_asked_for_is_loaded(monkeypatch):
    hub = FakeHub([{"question": f"Q{i}", "answer": str(i)} for i in range(15)])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    _, origin = load_with_provenance("aime25", revision="v1")
    assert hub.revisions == ["v1", "v1"]
    assert origin["commit"] is None
    assert "ConnectionError" in origin["commit_unknown"]


def test_a_hub_that_does_not_answer_is_no_error(monkeypatch):
    class Silent:
        def dataset_info(self, *args, **kwargs):
            raise TimeoutError("no answer")

    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "huggingface_hub", type(sys)("huggingface_hub"))
    sys.modules["huggingface_hub"].HfApi = Silent
    assert real.resolved_commit("a/b", None) == (None, "TimeoutError: no answer")


def test_hub_rows_are_renamed_and_two_configs_joined(monkeypatch):
    monkeypatch.setitem(
        sys.modules, "datasets", FakeHub([{"question": f"Q{i}", "answer": float(i)} for i in range(15)])
    )
    problems, origin = load_with_provenance("aime25")
    assert [p.gold for p in problems[:3]] == ["0", "1", "2"]
    assert len({p.problem_id for p in problems}) == 30
    assert origin["configs"] == ["AIME2025-I", "AIME2025-II"]


def test_hub_errors_name_columns_gate_and_the_way_offline(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", FakeHub([{"q": "Q", "answer": "1"}]))
    with pytest.raises(KvreproError, match="has the columns"):
        load_real("aime25")
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(error=ConnectionError("no route")))
    with pytest.raises(KvreproError, match="KVREPRO_DATA"):
        load_real("math500")
    with pytest.raises(KvreproError, match="gated"):
        load_real("gpqa_d")


def gpqa_rows(n=198):
    return [
        {
            "Record ID": f"rec{i}",
            "Question": f" Which number is {i}? \n",
            "Correct Answer": f"number {i}\n",
            "Incorrect Answer 1": f"{i + 1}",
            "Incorrect Answer 2": f"{i + 2}",
            "Incorrect Answer 3": f"{i + 3}",
        }
        for i in range(n)
    ]


def test_gpqa_options_are_shuffled_by_problem_and_the_letter_follows(tmp_path):
    problems = load_real("gpqa_d", data_dir=write(tmp_path, "gpqa_d", gpqa_rows()))
    for i, problem in enumerate(problems):
        assert f"{problem.gold}) number {i}" in problem.question.splitlines()
        assert problem.options[problem.gold] == f"number {i}"
    assert problems == load_real("gpqa_d", data_dir=tmp_path)
    letters = Counter(p.gold for p in problems)
    assert set(letters) == set("ABCD")
    assert min(letters.values()) > 30


def test_option_order_depends_on_problem_and_seed_only():
    assert option_order("rec1") == option_order("rec1")
    assert len({option_order(f"rec{i}") for i in range(200)}) == 24
    assert option_order("rec1", seed=1) != option_order("rec1", seed=2) or option_order("rec2", seed=1) != option_order(
        "rec2", seed=2
    )
    _, gold, shown = shuffled_question("Q?", "same", ["same", "b", "c"], "rec1")
    assert shown["ABCD".index(gold)] == "same"
    # two options with the same text: the gold's own place is carried
    assert gold == "ABCD"[option_order("rec1").index(0)]
    with pytest.raises(KvreproError, match="4 non-empty options"):
        shuffled_question("Q?", "a", ["b", " "], "rec1")


def test_ready_made_gpqa_rows_need_letters(tmp_path):
    lines = [{"id": f"r{i}", "problem": "Q\nA) 1\nB) 2\nC) 3\nD) 4", "answer": "ABCD"[i % 4]} for i in range(198)]
    ready = load_real("gpqa_d", data_dir=write(tmp_path, "gpqa_d", lines))[1]
    assert (ready.gold, ready.options) == ("B", dict(zip("ABCD", "1234", strict=True)))
    lines[0]["answer"] = "the first"
    with pytest.raises(KvreproError, match="letters A to D"):
        load_real("gpqa_d", data_dir=write(tmp_path, "gpqa_d", lines))


def test_broken_published_golds_are_mended(monkeypatch):
    published = [{"question": f"Q{i}", "answer": "1"} for i in range(385)]
    published[167]["answer"], published[192]["answer"], published[349]["answer"] = "", "", "902"
    monkeypatch.setitem(sys.modules, "datasets", FakeHub(published))
    problems = load_real("gk23en")
    assert (problems[167].gold, problems[192].gold, problems[349].gold) == (r"$\frac{3}{10}$", "A", "901")


@pytest.mark.parametrize(("gold", "expected"), [("Yes", "Q (Yes or No)"), ("false", "Q (True or False)"), ("12", "Q")])
def test_the_dynts_prompt_is_bare_but_for_its_hints(gold, expected):
    assert user_message("Q", gold) == expected
    assert user_message("Q", gold, "deepseek") == "Q" + DEEPSEEK_SUFFIX
    with pytest.raises(UnknownNameError, match="deepseek"):
        user_message("Q", gold, "qwen")


def test_prompt_hash_is_that_of_the_joined_prompts():
    assert prompt_hash(["a", "b"]) == hashlib.sha256(b"a\x1fb\x1f").hexdigest()
    assert prompt_hash(["ab"]) != prompt_hash(["a", "b"])


def test_known_scores_flag_only_what_is_far_and_outside():
    assert {entry.benchmark for entry in known_scores()} <= set(REAL_BENCHMARKS)
    assert known_scores("r1-qwen", "gk23en") == []
    [card] = (s for s in known_scores("r1-qwen", "math500") if s.score == 92.8)
    # inside the tolerance, outside it, and outside it with an interval that holds the score
    runs = [(0.90, 0.88, 0.915), (0.80, 0.77, 0.83), (0.80, 0.66, 0.94)]
    found = [is_far(card, Interval(*run, None, 500, 0.95, "wilson")) for run in runs]
    assert found == [False, True, False]


def test_four_sets_are_pinned_to_a_commit_and_two_are_known_not_to_be():
    pinned = {name: entry.hub.revision for name, entry in REAL_BENCHMARKS.items()}
    assert {name for name, revision in pinned.items() if revision is None} == {"amc23", "gk23en"}
    assert all(len(revision) == 40 for revision in pinned.values() if revision)


def test_the_pinned_commit_is_what_is_asked_for(monkeypatch):
    hub = FakeHub([{"question": f"Q{i}", "answer": str(i)} for i in range(15)])
    monkeypatch.setitem(sys.modules, "datasets", hub)
    load_with_provenance("aime25")
    assert hub.revisions == ["a6ad95f611d72cf628a80b58bd0432ef6638f958"] * 2
