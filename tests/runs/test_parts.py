"""Who makes which part of a cell: no reply twice, none left out, nobody waits for ever; with processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from kvrepro import claims
from kvrepro.claims import held, holder
from kvrepro.errors import KvreproError
from kvrepro.runs.folder import CellFolder
from kvrepro.runs.parts import Part, claimed_part, part_claims, wait_for_parts

from .test_claims import write_claim

# one run of a cell with twelve replies, each a file that can only be made once; several rounds, begun together
WORKER = """
import os, random, sys, time
from pathlib import Path
from kvrepro.claims import held
from kvrepro.runs import parts
from kvrepro.runs.folder import CellFolder

root, name, n_runs, n_rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance, text = random.Random(name), name.split()[0]
KEYS = list(range(12))

def make(folder, keys):
    missing = [key for key in keys if not (folder.partial / str(key)).exists()]
    for key in missing:
        time.sleep(chance.random() / 100)
        (folder.partial / str(key)).open("x").close()

def run_part(folder, part):
    with parts.claimed_part(folder, part):
        if not folder.path.exists():
            folder.partial.mkdir(exist_ok=True)
            make(folder, part.take(KEYS))

def run_whole(folder):
    with held(folder.lock, "cell", wait=True):
        if not folder.path.exists():
            folder.partial.mkdir(exist_ok=True)
            parts.wait_for_parts(folder.partial, "cell")
            make(folder, KEYS)
            assert len(list(folder.partial.iterdir())) == len(KEYS)
            folder.partial.rename(folder.path)

for number in range(n_rounds):
    (root / f"ready-{number}-{name}").touch()
    while len(list(root.glob(f"ready-{number}-*"))) < n_runs:
        time.sleep(0.001)
    time.sleep(chance.random() / 20)
    folder = CellFolder(root / str(number) / "cell", root)
    folder.path.parent.mkdir(exist_ok=True)
    run_whole(folder) if text == "whole" else run_part(folder, parts.Part.parse(text.replace("of", "/")))
"""


def test_a_part_is_every_nth_item_and_all_parts_are_all_items():
    items = list(range(10))
    assert Part(1, 3).take(items) == [0, 3, 6, 9]
    assert sorted(i for n in range(1, 5) for i in Part(n, 4).take(items)) == items
    assert Part(12, 12).take(items) == []


@pytest.mark.parametrize("text", ["3/2", "0/2", "x", "1/0", "-1/2", "1/2/3", "1.0/2", "", "1/", "1 / 2"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(KvreproError, match="expected I/N, part I of N with I from 1 to N, such as 2/3"):
        Part.parse(text)


def test_parts_meet_where_a_reply_is_in_both():
    items = list(range(60))
    found = [Part(index, of) for of in (1, 2, 3, 4, 5, 6) for index in range(1, of + 1)]
    for one in found:
        for other in found:
            assert one.meets(other) == bool(set(one.take(items)) & set(other.take(items))), (one, other)


def test_claims_of_parts_are_those_of_the_cell_alone(tmp_path):
    folder, beside = CellFolder(tmp_path / "a1", tmp_path), CellFolder(tmp_path / "a12", tmp_path)
    with claimed_part(folder, Part(2, 3)), claimed_part(beside, Part(1, 3)):
        assert part_claims(folder.partial) == {tmp_path / ".a1.shard-2of3.lock": Part(2, 3)}
        assert holder(tmp_path / ".a1.shard-2of3.lock").is_this_process
    assert list(tmp_path.iterdir()) == []


def test_a_cells_own_claim_is_none_of_a_part(tmp_path):
    folder = CellFolder(tmp_path / "a1", tmp_path)
    with held(folder.lock, "cell"):
        assert part_claims(folder.partial) == {}


def test_a_part_waits_for_the_plain_run_and_for_coarser_parts_holding_nothing(tmp_path, monkeypatch, capsys):
    folder, mine = CellFolder(tmp_path / "a1", tmp_path), tmp_path / ".a1.shard-3of4.lock"
    for first in (folder.lock, tmp_path / ".a1.shard-1of2.lock"):
        claim, looks = held(first, "x"), []

        def look(seconds, claim=claim, looks=looks):
            # whoever waits has given its own claim back
            looks.append(mine.exists())
            claim.__exit__(None, None, None)

        monkeypatch.setattr(claims.time, "sleep", look)
        claim.__enter__()
        with claimed_part(folder, Part(3, 4)):
            assert not first.exists()
        assert looks == [False]
        assert f"part 3/4 of cell a1 waits for pid {os.getpid()} on " in capsys.readouterr().err


def test_a_part_keeps_its_claim_while_it_waits_for_finer_parts(tmp_path, monkeypatch):
    folder, mine = CellFolder(tmp_path / "a1", tmp_path), tmp_path / ".a1.shard-1of2.lock"
    finer, apart = held(tmp_path / ".a1.shard-3of4.lock", "x"), tmp_path / ".a1.shard-2of4.lock"
    looks = []

    def look(seconds):
        looks.append(mine.exists())
        finer.__exit__(None, None, None)

    monkeypatch.setattr(claims.time, "sleep", look)
    finer.__enter__()
    # a part that shares no reply with this one is not waited for
    with held(apart, "y"), claimed_part(folder, Part(1, 2)):
        assert apart.exists()
    assert looks == [True]


@pytest.mark.parametrize("who", ["plain run", "part"])
def test_who_looks_dead_by_the_clock_and_gives_signs_of_life_is_waited_for(tmp_path, monkeypatch, who):
    folder = CellFolder(tmp_path / "a1", tmp_path)
    claim = folder.lock if who == "part" else tmp_path / ".a1.shard-1of2.lock"
    write_claim(claim, silent_s=3600)
    looks, long_ago = [], time.time() - 3600

    def sleep(seconds):
        looks.append(seconds)
        os.utime(claim, (long_ago + len(looks),) * 2)
        if len(looks) == 5:
            claim.unlink()

    monkeypatch.setattr(claims.time, "sleep", sleep)
    monkeypatch.setattr(claims.time, "monotonic", lambda: len(looks) * 0.5 * claims.LEASE_S)
    if who == "part":
        with claimed_part(folder, Part(1, 2)):
            assert not claim.exists()
    else:
        wait_for_parts(folder.partial, "cell a1")
        assert not claim.exists()
    assert len(looks) == 5


def test_many_runs_at_once_make_every_reply_once_and_all_end(tmp_path):
    n_rounds = 6
    names = ["1of2", "2of2", "2of2 again", "1of3", "3of3", "4of5", "whole", "whole again"]
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    runs = [
        subprocess.Popen([*command, name, str(len(names)), str(n_rounds)], stderr=subprocess.PIPE, text=True)
        for name in names
    ]
    try:
        ended = {name: (run.communicate(timeout=120)[1], run.returncode) for name, run in zip(names, runs, strict=True)}
    finally:
        for run in runs:
            run.kill()
    assert {name: error for name, (error, code) in ended.items() if code} == {}
    for number in range(n_rounds):
        (cell,) = (tmp_path / str(number)).iterdir()
        assert sorted(int(file.name) for file in cell.iterdir()) == list(range(12))
