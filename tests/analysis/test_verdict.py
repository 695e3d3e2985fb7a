"""What a run came to: against the committed table by cell, and where it ran."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest

from kvrepro.analysis import verdict as verdicts
from kvrepro.analysis.verdict import compare, verdict, where_and_when
from kvrepro.paths import committed_summary, project_root
from kvrepro.runs.folder import CellFolder
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.summary import summarise_profile

from .. import panels

TABLE = pd.DataFrame(
    {
        "cell_id": ["m/b/full-none/aaaa", "m/b/dynts-160/bbbb", "m/b/dynts-200/cccc", "m/b/dynts-240/dddd"],
        "pass_at_1": [100.0, 12.5, 50.0, 97.5],
        "evictions": [0, 1110, 700, 200],
        "mean_new_tokens": [244.5617, 250.0, 249.0, 248.0],
        "decode_tps": [7000.0, 6000.0, 5000.0, 4000.0],
        "wall_s": 10.0,
    }
)


def changed(**columns):
    """The table with other values, by column and row."""
    frame = TABLE.copy()
    for name, values in columns.items():
        for row, value in values.items():
            frame.loc[row, name] = value
    return frame


def test_equal_cells_are_equal_whatever_they_took():
    found = changed(decode_tps={0: 1.0}, wall_s={1: 99.0}, mean_new_tokens={0: 244.561712})
    assert compare(found, TABLE, 4) == "4 of 4 cells equal the committed numbers."


def test_another_score_is_named_with_both_values():
    assert compare(changed(pass_at_1={1: 13.0}, evictions={1: 1111}), TABLE, 4) == (
        "3 of 4 cells equal the committed numbers; 1 different. m/b/dynts-160: Pass@1 12.5 committed, 13 found."
    )


def test_a_difference_beside_the_score_is_named_by_its_column():
    assert compare(changed(evictions={1: 1111}), TABLE, 4).endswith(
        " m/b/dynts-160: evictions 1,110 committed, 1,111 found."
    )
    both = changed(evictions={1: 1111}, mean_new_tokens={1: 1.5})
    assert compare(both, TABLE, 4).endswith("mean_new_tokens 250 committed, 1.5 found and 1 more columns.")


def test_a_value_that_is_not_there_is_a_difference():
    assert "1 different" in compare(changed(pass_at_1={1: float("nan")}), TABLE, 4)


def test_of_many_differences_the_first_are_named_and_the_rest_is_counted():
    text = compare(changed(pass_at_1=dict.fromkeys(range(4), 1.0)), TABLE, 4)
    assert text.startswith("0 of 4 cells equal the committed numbers; 4 different. m/b/full-none: ")
    assert text.count("committed, 1 found") == 3
    assert text.endswith("; and 1 more.")


def test_missing_cells_are_counted():
    assert compare(TABLE[:1], TABLE, 4) == "1 of 4 cells equal the committed numbers; 3 not finished."
    assert compare(TABLE[:0], TABLE, 4) == "0 of 4 cells equal the committed numbers; 4 not finished."


def test_a_cell_of_other_weights_is_another_cell_and_not_compared():
    found = TABLE.assign(cell_id=[*TABLE.cell_id[:3], "m/b/dynts-240/eeee"], pass_at_1=[100.0, 12.5, 50.0, 1.0])
    text = compare(found, TABLE, 4)
    assert text == (
        "3 of 4 cells equal the committed numbers; 1 of other parameters, weights or problems than committed."
    )


def test_a_cell_that_the_table_has_not_is_counted():
    found = pd.concat([TABLE, TABLE[:1].assign(cell_id="m/other/full-none/aaaa")])
    assert compare(found, TABLE, 5) == ("4 of 5 cells equal the committed numbers; 1 not in the committed table.")


def manifest(ended="2026-11-28T04:43:57+00:00", git="fe7b34f91ec0b2a0", **hardware):
    return {"ended": ended, "git": git, "hardware": {"cpu": "AMD EPYC", "cores": 2, **hardware}}


def test_a_run_says_when_where_and_on_which_code():
    assert where_and_when([manifest(), manifest()]) == "Run 2026-11-28 on AMD EPYC, 2 cores, commit fe7b34f9."
    several = [manifest(git=None), manifest("2026-11-30T00:00:00+00:00", "abc+dirty", gpu="H100")]
    assert where_and_when(several) == (
        "Run 2026-11-28 to 2026-11-30 on AMD EPYC, 2 cores and H100, outside a checkout and commit abc with changes."
    )


def test_a_comparison_begins_with_its_differences(monkeypatch):
    told = [SimpleNamespace(to_others=[SimpleNamespace(sentence="mine beats h2o.")])]
    monkeypatch.setattr(verdicts.Comparison, "of", lambda profile: told)
    monkeypatch.setattr(verdicts, "read_manifest", lambda path: manifest())
    profile = replace(load_profile("smoke"), name="compare-mine-h2o")
    assert verdict(profile, TABLE[:0])[0] == f"0 of {len(profile.cells)} cells are finished."
    monkeypatch.setattr(CellFolder, "is_complete", property(lambda folder: True))
    assert verdict(profile, TABLE)[0] == "mine beats h2o."


def test_the_default_profile_is_compared_with_what_is_committed():
    assert verdict(load_profile("tiny")) == [
        f"0 of {(n := len(load_profile('tiny').cells))} cells equal the committed numbers; {n} not finished.",
        "Throughput not measured in 8 of 8 panels.",
    ]


def test_the_committed_table_has_the_columns_that_are_compared():
    text = compare(pd.read_csv(committed_summary("tiny")), pd.read_csv(committed_summary("tiny")), 1)
    assert "different" not in text
    assert set(TABLE.columns) <= set(pd.read_csv(committed_summary("tiny")).columns)


@pytest.mark.parametrize("name", ["tiny-methods", "tiny-ablations"])
def test_methods_and_ablations_are_compared_with_what_is_committed(name):
    n = len(load_profile(name).cells)
    assert verdict(load_profile(name)) == [f"0 of {n} cells equal the committed numbers; {n} not finished."]


def test_a_profile_without_a_committed_table_says_so():
    assert committed_summary("smoke") is None
    profile = load_profile("smoke")
    assert verdict(profile, summarise_profile(profile)) == [
        "0 of 5 cells are finished; no numbers are committed to compare with.",
        "Throughput not measured in 1 of 1 panels.",
    ]


def test_a_profile_whose_load_was_not_measured_says_so():
    panels.finish()
    profile = panels.profile(throughput=None)
    assert verdict(profile)[-1].endswith(" What else ran on the machine was not measured, so times may not compare.")


def test_the_committed_table_lies_among_what_the_wheel_ships():
    assert committed_summary("tiny").parent == project_root() / "notebooks" / "images"
