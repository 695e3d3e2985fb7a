"""The profile of a comparison: equal by construction, found by its name, refused before anything is written."""

from __future__ import annotations

import re

import pytest
import yaml

from kvrepro.claims import held
from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.grids.folder import GridFolder
from kvrepro.grids.plan import _figure_code
from kvrepro.paths import results_root
from kvrepro.runs.comparisons import write_comparison
from kvrepro.runs.profiles import comparison_names, load_profile, profile_names

PLACE = ("tiny-r1-llama", "chain-12")
SOURCE = "import kvrepro\n\n\nclass {0}(kvrepro.EvictionMethod):\n    name = {1!r}\n\n    def score(self, view):\n"
SOURCE += "        return view.positions.float()\n"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A method of one's own in the current folder."""
    (tmp_path / "mine.py").write_text(SOURCE.format("Mine", "mine"))
    monkeypatch.chdir(tmp_path)
    return f"{tmp_path / 'mine.py'}:Mine"


def test_all_methods_get_the_same_problems_noise_and_room(mine):
    entries = ["mine.py:Mine", "dynts", {"method": "h2o", "options": {"pin_question": True}}, "full"]
    profile = write_comparison(entries, *PLACE, [176, 208], n_problems=5, seed=7, window=None)
    assert re.fullmatch("compare-mine-dynts-h2o-question-tiny-r1-llama-chain-12-176-208-[0-9a-f]{6}", profile.name)
    assert profile.title == "mine, dynts, h2o + question on tiny-r1-llama, chain-12"
    assert profile.notebook == "comparison"
    assert [(c.label, c.budget) for c in profile.cells] == [
        ("full", None),
        *((label, budget) for label in ("mine", "dynts", "h2o + question") for budget in (176, 208)),
    ]
    assert profile.cells[1].method == mine
    assert {(c.n_problems, c.seed, c.window) for c in profile.cells} == {(5, 7, None)}
    assert {c.protocol for c in profile.cells[1:]} == {"fair"}


def test_its_name_is_a_profiles_wherever_one_is_taken(mine):
    written = write_comparison(["mine.py:Mine"], *PLACE, [176])
    assert comparison_names() == [written.name]
    assert written.name not in profile_names(), "the shipped ones"
    assert load_profile(written.name) == written
    with pytest.raises(UnknownNameError, match=f"unknown profile 'compare-x'; known: {written.name}, paper"):
        load_profile("compare-x")


def test_a_file_that_is_as_it_was_is_not_written_again(mine):
    """Figures older than the profile are drawn again."""
    profile = write_comparison(["mine.py:Mine"], *PLACE, [176])
    file = results_root() / profile.name / "profile.yaml"
    before = file.stat().st_mtime_ns
    write_comparison(["mine.py:Mine"], *PLACE, [176])
    assert file.stat().st_mtime_ns == before
    assert {str(file), mine.rpartition(":")[0]} <= set(_figure_code(profile))


def test_what_the_name_does_not_say_is_in_its_hash(mine):
    """Of two comparisons neither takes the other's profile."""
    usual = write_comparison(["mine.py:Mine", "h2o"], *PLACE, [176])
    assert usual.name == "compare-mine-h2o-tiny-r1-llama-chain-12-176"
    assert write_comparison(["mine.py:Mine", "h2o"], *PLACE, [176], seed=42, window=None).name == usual.name
    h2o = {"method": "h2o", "window": 16}
    others = [
        write_comparison(["mine.py:Mine", "h2o"], *PLACE, [176], n_problems=3),
        write_comparison(["mine.py:Mine", "h2o"], *PLACE, [176], n_problems=4),
        write_comparison(["mine.py:Mine", h2o], *PLACE, [176]),
        write_comparison([{"method": "mine.py:Mine", "window": 16}, "h2o"], *PLACE, [176]),
    ]
    assert len({other.name for other in others}) == 4
    assert all(re.fullmatch(f"{usual.name}-[0-9a-f]{{6}}", other.name) for other in others)
    file = results_root() / others[0].name / "profile.yaml"
    assert yaml.safe_load(file.read_text())["defaults"] == {"protocol": "fair", "n_problems": 3}


def test_nothing_is_written_where_it_is_only_shown(mine):
    shown = write_comparison(["mine.py:Mine"], *PLACE, [176], write=False)
    assert not results_root().exists()
    assert write_comparison(["mine.py:Mine"], *PLACE, [176]) == shown


def test_a_running_comparison_keeps_its_profile(mine, tmp_path):
    profile = write_comparison(["mine.py:Mine"], *PLACE, [176])
    elsewhere = tmp_path / "elsewhere.py"
    elsewhere.write_text(SOURCE.format("Mine", "mine"))
    with held(GridFolder.new(profile.name).lock, "the grid"):
        assert write_comparison(["mine.py:Mine"], *PLACE, [176]) == profile
        with pytest.raises(KvreproError, match=f"{profile.name} is running and was asked otherwise"):
            write_comparison([f"{elsewhere}:Mine"], *PLACE, [176])
    assert write_comparison([f"{elsewhere}:Mine"], *PLACE, [176]).name == profile.name


def test_a_long_name_is_cut_and_stays_its_own(mine, tmp_path):
    names = [letter * 60 for letter in "abc"]
    (tmp_path / "long.py").write_text("".join(SOURCE.format(name[0].upper(), name) for name in names))
    entries = [f"long.py:{letter}" for letter in "ABC"]
    profile, other = (write_comparison(entries, *PLACE, budgets) for budgets in ([176], [192]))
    assert len(profile.name) == 157
    assert profile.name != other.name


def test_many_methods_and_odd_names_make_a_name_that_a_folder_can_have(mine):
    profile = write_comparison(["mine.py:Mine", "dynts", "window", "h2o", "tova", "keydiff"], *PLACE, [176])
    start = "compare-mine-dynts-window-h2o-2-more-tiny-r1-llama-chain-12-176-"
    assert re.fullmatch(f"{start}[0-9a-f]{{6}}", profile.name)
    assert write_comparison(["mine.py:Mine", "dynts", "window", "h2o", "tova", "knorm"], *PLACE, [176]) != profile


@pytest.mark.parametrize(
    ("methods", "budgets", "message"),
    [
        (["dynts", "h20"], [176], r"unknown method 'h20'.*did you mean 'h2o'"),
        (["dynts", "dynts"], [176], "two of the methods, or budgets, are 'dynts'"),
        (["mine.py:Mine", "again.py:Again"], [176], "two of the methods, or budgets, are 'mine'"),
        (["dynts"], [176, 176], "two of the methods, or budgets, are 'dynts'"),
        (["full"], [176], "only the full cache was named"),
        (["oracle_answer"], [176], "oracle_answer looks into the future"),
        (["window"], [20], "the prompt has 68 tokens, more than budget=20; raise the budget"),
        ([{"options": {}}], [176], "a method must be a name, FILE.py:CLASS or a mapping with `method`"),
        (["nowhere.py:Mine"], [176], "nowhere.py cannot be read"),
        ([{"method": "dynts", "budget": 256}, "random"], [128], "parameter of one method of a comparison 'budget'"),
        ([{"method": "dynts", "seed": 1}], [176], "parameter of one method of a comparison 'seed'"),
        ([{"method": "dynts", "temperature": 0}], [176], "parameter of one method of a comparison 'temperature'"),
    ],
)
def test_what_cannot_be_compared_is_refused_and_nothing_is_written(mine, tmp_path, methods, budgets, message):
    (tmp_path / "again.py").write_text(SOURCE.format("Again", "mine"))
    with pytest.raises(KvreproError, match=message) as found:
        write_comparison(methods, *PLACE, budgets)
    assert "\n" not in str(found.value)
    assert not results_root().exists()


def test_one_problem_is_refused(mine):
    with pytest.raises(KvreproError, match="n_problems=1: methods are compared problem by problem"):
        write_comparison(["mine.py:Mine"], *PLACE, [176], n_problems=1)
    assert not results_root().exists()
