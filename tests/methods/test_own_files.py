"""A class in a file, `FILE.py:CLASS`, wherever a method's name is taken: what is read, what counts, what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from kvrepro.errors import KvreproError
from kvrepro.methods.own import absolute_method, own_class, own_method
from kvrepro.methods.table import METHODS, create_method, method_class, method_entry
from kvrepro.runs.config import CellConfig
from kvrepro.runs.resolution import ResolvedCell, resolve_cell

from .test_own_method import Newest, generate

SOURCE = '''
import kvrepro
from kvrepro import EvictionMethod as Base
from kvrepro.methods import dynts
from kvrepro.methods.triattention import TriAttentionMethod


class Newest(kvrepro.EvictionMethod):
    name = "newest_file"
    pin_question: bool = True
    sharpness: float = 1.0

    def score(self, view):
        return view.positions.float()


class NewestMethod(Newest):
    granularity: str = "head"


class Predicts(dynts.DynTSMethod):
    """A need that comes from a base."""


class Corrected(TriAttentionMethod):
    pass


class Seer(Base):
    needs = ("trace",)
    traces: object = None

    def score(self, view):
        return view.positions.float()
'''

OWN = "import kvrepro\nclass Mine(kvrepro.EvictionMethod):\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_method.py"
    path.write_text(SOURCE)
    return path


def cell(method, **changes):
    values = {"model": "tiny-r1-llama", "benchmark": "chain-12", "budget": 176, "n_problems": 2, "max_new_tokens": 40}
    return CellConfig.from_mapping({**values, "method": str(method), **changes})


def test_the_name_is_the_classes_and_the_path_is_absolute(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    config = cell("my_method.py:Newest", options={"sharpness": 2})
    assert config.method == f"{file}:Newest"
    assert config.cell_id.startswith("tiny-r1-llama/chain-12/newest_file-176/")
    assert config.label == "newest_file + sharpness=2.0"
    assert absolute_method("dynts") == "dynts"
    # where it goes from here, a notebook or a job, it means the same
    monkeypatch.chdir("/")
    assert CellConfig(**config.resolved()).cell_id == config.cell_id


def test_what_a_class_does_not_say_is_its_bases(file):
    found = own_method(f"{file}:NewestMethod")
    assert (found.name, found.needs) == ("newest", ())
    assert found.options["sharpness"] == "float"
    assert own_method(f"{file}:Predicts").needs == ("predictor",)
    assert set(own_method(f"{file}:Predicts").bases) >= {"dynts:DynTSMethod", "base:EvictionMethod"}
    for name in ("Newest", "NewestMethod", "Predicts", "Corrected", "Seer"):
        read, loaded = own_method(f"{file}:{name}"), own_class(f"{file}:{name}")
        assert (read.name, read.needs) == (loaded.name, tuple(loaded.needs)), name


def test_content_counts_and_place_does_not(file, tmp_path):
    before = cell(f"{file}:Newest")
    elsewhere = tmp_path / "elsewhere.py"
    elsewhere.write_text(SOURCE)
    assert cell(f"{elsewhere}:Newest").cell_id == before.cell_id
    assert cell(f"{file}:NewestMethod").hash8 != before.hash8
    file.write_text(SOURCE.replace("view.positions.float()", "-view.positions.float()"))
    edited = cell(f"{file}:Newest")
    assert edited.hash8 != before.hash8
    file.write_text(SOURCE)
    assert cell(f"{file}:Newest").cell_id == before.cell_id


def test_trained_folders_and_the_bases_revision_count(file):
    base = cell(f"{file}:Predicts")
    assert replace(base, predictor="org/head").hash8 != base.hash8
    plain = cell(f"{file}:Newest")
    assert replace(plain, predictor="org/head").hash8 == plain.hash8
    assert method_entry(f"{file}:Corrected").revision == METHODS["triattention"].revision > 1
    assert method_entry(f"{file}:Corrected").learned == ("calibration",)


def test_ids_need_neither_torch_nor_the_file_to_run(file):
    file.write_text(SOURCE + "\nraise SystemExit('the file was executed')\n")
    config = cell(f"{file}:Newest")
    code = (
        "import sys; from kvrepro.runs.config import CellConfig; "
        f"c = CellConfig(**{config.resolved()!r}); print(c.cell_id, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [config.cell_id, "False"]


def test_a_reference_generates_what_its_class_does(file, random_models):
    sizes = {"budget": 24, "window": 4, "evict_every": 6, "protocol": "fair"}
    by_class = generate(random_models["llama"], Newest, pin_question=True)
    by_name = generate(random_models["llama"], create_method(f"{file}:Newest", **sizes))
    assert [r.token_ids for r in by_name] == [r.token_ids for r in by_class]
    assert any(r.evictions for r in by_name)
    assert method_class(f"{file}:Newest") is method_class(f"{file}:Newest"), "one content is executed once"


def test_a_cell_resolves_with_the_options_of_its_class(file):
    resolved = ResolvedCell.of(cell(f"{file}:Newest", options={"sharpness": 3, "sinks": 2}))
    assert resolved.values()["options"] == {
        "granularity": "shared",
        "pin_question": True,
        "pin_answer": False,
        "sinks": 2,
        "sharpness": 3.0,
    }
    with pytest.raises(KvreproError, match="unknown option of method newest_file 'sharp'"):
        cell(f"{file}:Newest", options={"sharp": 3})


@pytest.mark.parametrize(
    ("text", "cls", "message"),
    [
        (None, "Mine", r"my_method.py cannot be read \(No such file"),
        ("x = 1\n", "Mine", "unknown class of .*my_method.py 'Mine'; known: $"),
        ("class Mine:\n    pass\n", "Mine", "class Mine is no subclass of kvrepro.EvictionMethod"),
        ("def broken(:\n", "Mine", "my_method.py, line 1: SyntaxError"),
        ("import kvrepro\nclass Mine(kvrepro.EvictionMethod):\n    name = 'h2o'\n", "Mine", "which is a method of the"),
        ("import kvrepro\nclass Mine(kvrepro.EvictionMethod):\n    name = '../up'\n", "Mine", "name='../up', expected"),
        (
            "import kvrepro\nN = 'n'\nclass Mine(kvrepro.EvictionMethod):\n    name = N\n",
            "Mine",
            "`name` must be written",
        ),
        (OWN + "    name = 5\n", "Mine", "class Mine: name=5, expected a text of letters"),
        (OWN + f"    name = {'n' * 61!r}\n", "Mine", "at most 60 characters"),
        (OWN + "    needs = 5\n", "Mine", "needs=5, expected a tuple such as"),
        (OWN + "    needs = {[]: 1}\n", "Mine", "`needs` must be written out"),
        (OWN + "    needs = 'predictor'\n", "Mine", "needs='predictor', expected a tuple such as"),
        ("from other import Base\nclass Mine(Base):\n    pass\n", "Mine", "its base Base is neither in this file nor"),
    ],
)
def test_a_mistake_is_named_before_anything_runs(tmp_path, text, cls, message):
    path = tmp_path / "my_method.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(KvreproError, match=message) as found:
        cell(f"{path}:{cls}")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("line", ["name: str", "a = kvrepro\n    a.b: int = 3", "for name in ('a',):\n        pass"])
def test_lines_that_state_nothing_are_read_over(tmp_path, line):
    path = tmp_path / "my_method.py"
    path.write_text(f"{OWN}    {line}\n")
    assert own_method(f"{path}:Mine").name == "mine"


def test_places_that_hold_no_file_are_named(tmp_path):
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(KvreproError, match=r"folder.py cannot be read \(Is a directory\)"):
        cell(f"{tmp_path / 'folder.py'}:Mine")
    with pytest.raises(KvreproError, match=r"~nosuchuser/x.py cannot be read \(No such file"):
        cell("~nosuchuser/x.py:Mine")


def test_a_link_into_a_store_keeps_its_name(file, tmp_path):
    (tmp_path / "link.py").symlink_to(file.rename(tmp_path / "5f2c"))
    assert cell(f"{tmp_path / 'link.py'}:Newest").method == f"{tmp_path / 'link.py'}:Newest"


def test_what_a_file_prints_is_not_the_commands_output(file, capsys):
    file.write_text(SOURCE + "print('hello from the file')\n")
    own_class(f"{file}:Newest")
    assert capsys.readouterr() == ("", "hello from the file\n")


def test_a_file_without_its_class_says_how_one_is_named(file):
    with pytest.raises(KvreproError, match=r"named FILE.py:CLASS, such as .*my_method.py:MyMethod"):
        cell(file)
    with pytest.raises(KvreproError, match=r"named FILE.py:CLASS, such as my_method.py:MyMethod"):
        cell("my_method:Newest")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("import nothing_such\n", r"my_method.py, line \d+: ModuleNotFoundError: No module named 'nothing_such'"),
        ("raise SystemExit(3)\n", r"my_method.py, line \d+: SystemExit: 3"),
        (
            "class Bad(Base):\n    attention = 'steps'\n",
            r"my_method.py, line \d+: unknown attention of method class Bad",
        ),
        ("Newest.name = 'other'\n", "class Newest calls itself 'other', its source says 'newest_file'"),
        (
            "Newest.needs = ('predictor',)\n",
            r"class Newest needs \('predictor',\), its source says \(\): write `needs` out",
        ),
    ],
)
def test_a_file_that_fails_as_it_is_executed_is_named_with_its_line(file, more, message):
    file.write_text(SOURCE + more)
    with pytest.raises(KvreproError, match=message):
        resolve_cell(cell(f"{file}:Newest"))


def test_what_needs_a_trace_cannot_generate(file):
    with pytest.raises(KvreproError, match="seer looks into the future of a finished trace"):
        resolve_cell(cell(f"{file}:Seer"))
