"""What measured cells say of others: reply lengths and speeds, beside the published table of the default grid."""

from __future__ import annotations

import pandas as pd
import pytest

from kvrepro.errors import KvreproError
from kvrepro.paths import PACKAGE
from kvrepro.runs.config import CellConfig
from kvrepro.runs.past_cells import ELSEWHERE, PastCell, expected_speed, expected_tokens, past_cells
from kvrepro.runs.profiles import load_profile

TINY_TABLE = PACKAGE.parent / "notebooks" / "images" / "tiny-summary.csv"


def test_times_of_cells_left_out_of_the_table_are_met():
    """Every cell of the tiny grid predicted from the others: the sum within 5 %, all but one cell within 25 %."""
    table = pd.read_csv(TINY_TABLE).to_dict("records")
    known = [PastCell.of(row, ELSEWHERE) for row in table]
    errors, planned = [], 0.0
    for row, config in zip(table, load_profile("tiny").cells, strict=True):
        others = [
            m
            for m in known
            if (m.model, m.benchmark, m.method, m.budget)
            != (config.model, config.benchmark, config.method, config.budget)
        ]
        tokens, _ = expected_tokens(config, others)
        tps, overhead, _ = expected_speed(config, others)
        seconds = row["n_problems"] * row["n_samples"] * tokens / tps + overhead
        errors.append(abs(seconds / row["wall_s"] - 1))
        planned += seconds
    measured = sum(row["wall_s"] for row in table)
    assert abs(planned / measured - 1) < 0.05
    # two cells share two cores, so single cells are noisy
    assert sum(e < 0.25 for e in errors) / len(errors) > 0.95
    assert max(errors) < 0.3


def test_a_full_cache_is_estimated_from_replies_of_its_own_length():
    """Full caches have no budget to be near in, so the length of the reply stands for the size."""

    def cell(benchmark, new_tokens, tps, method="full", budget=None):
        return PastCell("tiny-r1-qwen", benchmark, method, budget, new_tokens, tps, 2.0, ELSEWHERE)

    known = [cell("chain-12", 200, 4000.0), cell("chain-23", 600, 2000.0), cell("choice-18", 400, 1 / 0.375e-3)]
    known.append(cell("sum-16", 380, 9999.0, "dynts", 300))
    config = CellConfig(model="tiny-r1-qwen", benchmark="sum-16", max_new_tokens=450)
    tps, _, _ = expected_speed(config, known)
    # a token takes 0.25 ms at 200 tokens and 0.5 ms at 600, so 0.3625 ms at 380
    assert tps == pytest.approx(1 / 0.3625e-3)
    # one cold first cell does not set the time outside decoding
    known += [cell("sum-16", 380, 9999.0, "dynts", b) for b in (310, 320)]
    known[3] = PastCell("tiny-r1-qwen", "sum-16", "dynts", 300, 380, 9999.0, 60.0, ELSEWHERE)
    assert expected_speed(config, known)[1] == 2.0


def test_a_full_cache_has_the_reply_length_of_the_largest_budgets():
    lengths = {160: 16_000.0, 5000: 4_000.0, 8000: 3_900.0}
    known = [PastCell("r1-llama", "aime24", "dynts", b, n, 100.0, 2.0, ELSEWHERE) for b, n in lengths.items()]
    tokens, _ = expected_tokens(CellConfig(model="r1-llama", benchmark="aime24", max_new_tokens=16_384), known)
    assert 3_900 < tokens < 4_000


@pytest.mark.parametrize("speed", ["", "0"])
def test_a_cell_without_a_speed_tells_nothing_of_others(speed, tmp_path):
    lines = TINY_TABLE.read_text().splitlines()
    place, values = lines[0].split(",").index("run_tps"), lines[1].split(",")
    values[place] = speed
    if not speed:
        values[lines[0].split(",").index("decode_tps")] = "0"
    (tmp_path / "table.csv").write_text("\n".join([lines[0], ",".join(values), *lines[2:]]))
    profile = load_profile("tiny")
    for config in profile.cells[:3]:
        tps, _, _ = expected_speed(config, past_cells(profile, [tmp_path / "table.csv"]))
        assert 1_000 < tps < 20_000


def test_a_table_that_is_none_is_refused(tmp_path):
    for content in ("", "a,b\n1,2\n"):
        (tmp_path / "foreign.csv").write_text(content)
        with pytest.raises(KvreproError, match="foreign.csv is no summary.csv"):
            past_cells(load_profile("tiny"), [tmp_path / "foreign.csv"])
