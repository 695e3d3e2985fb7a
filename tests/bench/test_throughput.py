"""A panel's throughput on real cells: their own replies, their lengths and evictions, turns there and back."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from types import SimpleNamespace

import pytest

from kvrepro.bench import throughput
from kvrepro.bench.throughput import CellReplies, measure_panel
from kvrepro.errors import KvreproError
from kvrepro.files import write_rows
from kvrepro.runs.folder import MANIFEST, NOTEBOOK, RECORDS, read_manifest, read_records
from kvrepro.runs.profiles import Profile
from kvrepro.runs.runner import run_cell
from kvrepro.runs.throughput import Panel, ThroughputSettings

from ..cells import HAS_MODEL, SETTINGS, build
from ..conftest import has_compiler

pytestmark = pytest.mark.skipif(not HAS_MODEL, reason="needs the tiny model")
TURNS = ThroughputSettings(rounds=5, rows=2, turn_tokens=2)
WHOLE = ThroughputSettings(rounds=5, rows=2)
# prompts have about 80 tokens: both budgets evict
COMPRESSED = {"method": "dynts", "window": 32, "ratio": 0.75, "pin_overflow": "keep_first"}
LONG = {**SETTINGS, "max_new_tokens": 60, "batch_rows": 3}
CELLS = tuple(build(LONG, **more) for more in ({}, *({**COMPRESSED, "budget": b} for b in (92, 110))))
# of other problems, and of fewer rows, than the three
FEWER = build(LONG, **COMPRESSED, budget=100, n_problems=2, batch_rows=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The cells, run once."""
    root = tmp_path_factory.mktemp("cells")
    for cell in (*CELLS, FEWER):
        run_cell(cell, root / cell.cell_id)
        (root / cell.cell_id / NOTEBOOK).write_text("{}")
    return root


@pytest.fixture
def panel(finished, monkeypatch, tmp_path):
    """The panel of three of them, in a results folder of this test."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "mine").symlink_to(finished)
    return panel_of(*CELLS)


def panel_of(*cells):
    """The panel of these cells."""
    (found,) = Panel.all_of(Profile("mine", "", cells, throughput=TURNS))
    return found


def note(monkeypatch, name):
    """What a method of the cells is called with from now on: `(budget, argument)`."""
    calls, original = [], getattr(CellReplies, name)

    def noted(self, given):
        calls.append((self.config.budget, given))
        return original(self, given)

    monkeypatch.setattr(CellReplies, name, noted)
    return calls


@pytest.mark.parametrize("settings", [TURNS, WHOLE, replace(TURNS, rounds=10)], ids=["turns", "whole", "two passes"])
def test_lengths_and_evictions_are_those_of_the_cells(panel, settings, monkeypatch):
    forced = []
    original = CellReplies._forced

    def note_forced(self, key):
        forced.append((self.config.cell_id, key, original(self, key)))
        return forced[-1][-1]

    monkeypatch.setattr(CellReplies, "_forced", note_forced)
    found = measure_panel(panel, settings)
    assert list(found["cells"]) == [cell.cell_id for cell in CELLS]
    records = {
        folder.cell_id: {(r["problem_id"], r["sample_id"]): r for r in read_records(folder.path)}
        for folder in panel.folders
    }
    for cell_id, key, request in forced:
        row = records[cell_id][key]
        assert len(request.forced_ids) == row["n_thinking_tokens"] + row["n_answer_tokens"]
    for cell_id, row in found["cells"].items():
        assert row["evictions"] == row["recorded_evictions"]
        assert (row["evictions"] > 0) == (row["budget"] is not None)
        assert len(row["tps"]) == settings.rounds and all(tps > 0 for tps in row["tps"])
        assert row["decode_tps_lo"] <= row["decode_tps"] <= row["decode_tps_hi"]
        assert row["ended"] == panel.runs()[cell_id]
    full, *compressed = found["cells"].values()
    assert (full["tps_vs_full"], full["tps_vs_full_lo"], full["tps_vs_full_hi"]) == (1.0, 1.0, 1.0)
    for row in compressed:
        assert row["tps_vs_full_lo"] <= row["tps_vs_full"] <= row["tps_vs_full_hi"]
    assert (found["model"], found["benchmark"], found["clock"]) == ("tiny-r1-llama", "chain-12", "processor")
    assert (found["rounds"], found["rows"], found["settings"]) == (settings.rounds, 2, vars(settings))
    assert all(row["rows"] == 2 and 1 <= row["live_rows_mean"] <= 2 for row in found["cells"].values())
    assert (found["methods"]["dynts"]["smallest"], found["methods"]["dynts"]["largest"]) == (92, 110)
    assert 0 <= found["load"]["mean"] <= found["load"]["max"] <= 1


def test_all_replies_of_a_cell_give_the_evictions_of_its_manifest_and_every_token(panel):
    found = measure_panel(panel, replace(TURNS, rows=3))
    for folder in panel.folders:
        manifest, row = read_manifest(folder.path), found["cells"][folder.cell_id]
        assert row["evictions"] == manifest["evictions"]
    tokens = [
        sum(r["n_thinking_tokens"] + r["n_answer_tokens"] - 1 for r in read_records(f.path)) for f in panel.folders
    ]
    # the first token of a reply comes from its prompt
    assert found["new_tokens"] == round(sum(tokens) / len(tokens) / 5)


def test_cells_take_turns_there_and_back_on_the_same_replies(panel, monkeypatch):
    turns, begun = note(monkeypatch, "turn"), note(monkeypatch, "begin")
    measure_panel(panel, replace(TURNS, rounds=10))
    there = [None, 92, 110]
    # the warm-up, then turns of two steps; the last ones of a pass may find nothing left
    assert [budget for budget, _ in turns[3:15]] == there + there[::-1] + there + there[::-1]
    assert {steps for _, steps in turns[3:]} == {2}
    warm_up, *passes = [begun[i : i + 3] for i in range(0, len(begun), 3)]
    assert len(passes) == 2
    for part in (warm_up, *passes):
        assert [budget for budget, _ in part] == there and all(keys == part[0][1] for _, keys in part)
    # three replies of which two fit: the second pass takes the third
    assert warm_up == passes[0]
    assert len({key for part in passes for key in part[0][1]}) == 3


def test_rounds_of_whole_replies_decode_the_same_replies(panel, monkeypatch):
    begun = note(monkeypatch, "begin")
    found = measure_panel(panel, WHOLE)
    keys = begun[0][1]
    assert len(begun) == 3 * (1 + WHOLE.rounds) and len(keys) == 2 and all(given == keys for _, given in begun)
    for row, folder in zip(found["cells"].values(), panel.folders, strict=True):
        records = {(r["problem_id"], r["sample_id"]): r for r in read_records(folder.path)}
        lengths = [records[key]["n_thinking_tokens"] + records[key]["n_answer_tokens"] - 1 for key in keys]
        assert row["live_rows_mean"] == pytest.approx(sum(lengths) / max(lengths))


@pytest.mark.parametrize("settings", [TURNS, WHOLE], ids=["turns", "whole"])
def test_cells_of_other_problems_and_rows_decode_what_all_have_in_rows_of_their_own(panel, settings, monkeypatch):
    begun = note(monkeypatch, "begin")
    found = measure_panel(panel_of(*CELLS, FEWER), replace(settings, rows=3))
    have = {(r["problem_id"], r["sample_id"]) for r in read_records(panel_of(FEWER).folders[0].path)}
    assert len(have) == 2 and all(set(keys) == have for _, keys in begun)
    assert [row["rows"] for row in found["cells"].values()] == [3, 3, 3, 1] and found["rows"] == 2
    # no more memory than the cell itself needed
    assert found["cells"][FEWER.cell_id]["live_rows_mean"] == 1


@pytest.mark.parametrize("cells", [CELLS[:1], CELLS[1:2]], ids=["full", "one budget"])
def test_cells_that_nothing_can_be_compared_with_are_measured_all_the_same(panel, cells):
    found = measure_panel(panel_of(*cells), TURNS)
    assert found["verdict"] == "alone"
    assert [(m["smallest_vs_largest"], m["verdict"]) for m in found["methods"].values()] == (
        [] if cells[0].budget is None else [(None, "alone")]
    )
    (row,) = found["cells"].values()
    assert row["decode_tps"] > 0 and row["tps_vs_full"] == (1.0 if cells[0].budget is None else None)


@pytest.mark.skipif(not has_compiler(), reason="the compiled decode step alone looks for its cache anew")
def test_caches_move_to_other_memory_and_decode_on_as_before(panel, monkeypatch):
    places, moved = {}, CellReplies.move

    def note(self):
        moved(self)
        if self._state is not None:
            places.setdefault(self.config.cell_id, []).append(self._state.cache.kv.data_ptr())

    monkeypatch.setattr(throughput, "MOVE_TURNS", 3)
    monkeypatch.setattr(CellReplies, "move", note)
    found = measure_panel(panel, replace(TURNS, rows=3))
    assert set(places) == set(found["cells"]) and all(len(set(where)) > 1 for where in places.values())
    for row in found["cells"].values():
        assert row["evictions"] == row["recorded_evictions"]


@pytest.mark.parametrize(("n_keys", "rows"), [(100, 32), (5, 3), (60, 48), (5, 5), (3, 7)])
def test_passes_take_other_replies_until_all_have_come(n_keys, rows):
    keys, cells = [(str(i), 0) for i in range(n_keys)], [SimpleNamespace(rows=rows)]
    parts = [throughput._some(keys, TURNS, cells, number) for number in range(-(-n_keys // rows))]
    assert all(len(part) == len(set(part)) == min(rows, n_keys) for part in parts)
    assert set().union(*parts) == set(keys)
    # of whole replies the same ones, or rounds would differ by what they decode
    assert all(throughput._some(keys, WHOLE, cells, number) == parts[0] for number in range(5))


def test_turns_are_dealt_so_that_every_round_gets_as_many_early_and_late_ones():
    deal = throughput._deal(range(5), random.Random(0))
    dealt = [next(deal) for _ in range(1000)]
    for start in range(0, 1000, 5):
        assert sorted(dealt[start : start + 5]) == list(range(5))
    places = [sum(i for i, at in enumerate(dealt) if at == n) for n in range(5)]
    assert len(set(places)) == 1
    assert len({tuple(dealt[i : i + 5]) for i in range(0, 1000, 10)}) > 20


def test_evictions_are_shared_within_a_pass(panel, monkeypatch):
    """Made turns: every one takes a second, and one of them three more that were an eviction's."""
    import numpy as np

    def turn(self, steps):
        self.left = getattr(self, "left", 40) - 1
        if self.left == 0:
            self._waiting = []
        return np.array([10.0, 4.0, 3.0]) if self.left == 20 else np.array([10.0, 1.0, 0.0])

    monkeypatch.setattr(CellReplies, "turn", turn)
    found = measure_panel(panel, TURNS)
    for row in found["cells"].values():
        assert row["tps"] == pytest.approx([row["tps"][0]] * 5, rel=0.2)
        assert min(row["tps"]) > 8.5


def test_a_text_that_gives_other_tokens_is_fitted_and_counted(panel):
    folder = panel.folders[0]
    rows = read_records(folder.path)
    before = {name: (folder.path / name).read_bytes() for name in (RECORDS, MANIFEST)}
    # as a cell of 0.2.0, which vouches for the number of its records alone
    manifest = json.loads(before[MANIFEST])
    del manifest["records_sha256"]
    (folder.path / MANIFEST).write_text(json.dumps(manifest))
    try:
        changed = [{**rows[0], "text": rows[0]["text"][:7]}, {**rows[1], "text": rows[1]["text"] * 2}, rows[2]]
        write_rows(folder.path / RECORDS, changed)
        found = measure_panel(panel, replace(TURNS, rows=3))
        assert [row["refitted"] for row in found["cells"].values()] == [2, 0, 0]
        write_rows(folder.path / RECORDS, [{**row, "text": ""} for row in rows])
        assert measure_panel(panel, replace(TURNS, rows=3))["cells"][folder.cell_id]["refitted"] == 3
    finally:
        for name, content in before.items():
            (folder.path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("limit", "settings", "message"),
    [
        (4, TURNS, "replies of at most 4 tokens cannot be dealt to 5 rounds; measure"),
        (1, TURNS, "its 2 cells share no problem and sample with a reply of two tokens or more"),
        (1, WHOLE, "its 2 cells share no problem and sample with a reply of two tokens or more"),
    ],
)
def test_replies_that_are_too_short_are_refused(limit, settings, message):
    cells = tuple(
        build(SETTINGS, n_problems=1, max_new_tokens=limit, **more)
        for more in ({}, {"method": "window", "budget": 100, "window": 16})
    )
    (panel,) = Panel.all_of(Profile("short", "", cells, throughput=TURNS))
    for folder in panel.folders:
        run_cell(folder_config(panel, folder), folder.path)
        (folder.path / NOTEBOOK).write_text("{}")
    with pytest.raises(KvreproError, match=message):
        measure_panel(panel, settings)


def folder_config(panel, folder):
    return next(cell for cell in panel.cells if cell.cell_id == folder.cell_id)


def test_a_panel_that_is_not_complete_is_not_measured(panel):
    (other,) = Panel.all_of(Profile("nothing", "", CELLS, throughput=TURNS))
    with pytest.raises(
        KvreproError, match=r"needs all its replies: 3 of 3 cells are not complete.*kvrepro grid nothing"
    ):
        measure_panel(other, TURNS)
