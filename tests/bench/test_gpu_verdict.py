"""What `gpu-check` concludes from rows made for tests: bounds, the verdict, the aims, one word and why."""

from __future__ import annotations

import pytest

from kvrepro.bench.gpu import report, verdict
from kvrepro.bench.gpu.plan import Settings
from kvrepro.paths import PACKAGE

SMALL = Settings(("r1-llama-8b",), 2, "cpu", True)
GPU = Settings(("r1-llama-8b",))


def row(name="dynts C=2500", method="dynts", tps=2000.0, lengths=(2150,), **more):
    found = {"model": "r1-llama-8b", "name": name, "method": method, "rows": 20, "decode_tps": tps}
    return found | {"step_lengths": list(lengths), "step_ms": [1.0] * len(lengths)} | more


def test_the_bound_is_memory_over_the_read_rate():
    measured = row(bytes_per_slot=128 * 1024, weights_bytes=round(15.0e9), mean_slots=2325.5)
    found = verdict.with_bounds(measured, 3.0e12, 6.0e12)
    # by hand: 7.0 ms per step for R1-Llama-8B at C=2500
    assert 20 / found["bound_tps"] * 1e3 == pytest.approx(7.0, abs=0.05)
    assert found["fraction_of_bound"] == pytest.approx(2000 / found["bound_tps"])
    assert found["fraction_of_data_sheet"] == pytest.approx(found["fraction_of_bound"] / 2)
    assert not {"fraction_of_bound", "fraction_of_data_sheet"} & set(verdict.with_bounds(measured, None, None))
    assert verdict.with_bounds(row("eager", "eager"), 3.0e12, 3.0e12) == row("eager", "eager")


def data_of(settings=GPU, **tables):
    made = report.Report(None, settings, {"name": "none"})
    return made.data | tables


@pytest.mark.parametrize(
    ("name", "mib", "bandwidth"),
    [
        ("NVIDIA H200", 143771, 4.8e12),
        ("NVIDIA H100 80GB HBM3", 81559, 3.35e12),
        ("NVIDIA H100 PCIe", 81559, 2.0e12),
        # neither has a row in the table
        ("NVIDIA H100 NVL", 95830, None),
        ("NVIDIA GH200 480GB", 97871, None),
        ("NVIDIA A100-SXM4-40GB", 40536, 1.555e12),
        ("NVIDIA GeForce RTX 4090", 24564, 1.008e12),
    ],
)
def test_a_data_sheet_is_found_by_name_and_memory(name, mib, bandwidth):
    assert verdict.data_sheet({"name": name, "memory_bytes": mib * 2**20}) == bandwidth


def test_the_verdict_is_made_of_rows_and_says_what_is_missing():
    empty = verdict.verdict(data_of())
    assert "logits and replies: not asked for" in verdict.lines(empty)
    assert verdict.lines(empty)[2].startswith("r1-llama-8b C=2500: n/a tokens/s, n/a of the read bound; at equal slots")
    assert verdict.lines(empty)[-1] == "  real run within 5 % of what short stretches predict: n/a"
    budget = dict(budget_tokens=2500, mean_slots=2325.5, fraction_of_bound=0.8, eviction_share=0.02)
    steps = dict(measured_over_predicted=1.02, steps=16_000, of_steps=16_375)
    decode = [
        row(**budget),
        row("eager concat n=3950", "eager", 100.0, (3950,)),
        row("eager concat n=2326", "eager", 200.0, (2326,)),
        # at other slots
        row("generate sdpa n=3950", "generate", 100.0, (3950,)),
        row("full cache", "full", 1000.0, (1024, 4096)),
        row("dynts C=2500 largest batch", tps=9000.0, variant="largest batch", **budget | {"rows": 187}),
        row("full largest batch", "full", 1500.0, variant="largest batch", rows=27),
        row("dynts C=2500 real run", variant="real run", **steps, **budget),
    ]
    found = verdict.verdict(data_of(decode=decode))
    assert found["budgets"]["r1-llama-8b C=2500"] == {
        "decode_tps": 2000.0,
        "fraction_of_bound": 0.8,
        "fraction_of_data_sheet": None,
        "mean_slots": 2325.5,
        "eviction_share": 0.02,
        "over_eager": 10.0,
        "over_generate": None,
        "over_full": 2.0,
    }
    said = verdict.lines(found)
    assert said[2] == (
        "r1-llama-8b C=2500: 2,000 tokens/s, 80% of the read bound; at equal slots (2,326): 10.0 x eager loop, "
        "n/a x generate; 2.0 x our full cache averaged over a reply of 16,384 tokens; evictions 2.0% of the time"
    )
    assert said[4:6] == [
        "r1-llama-8b, largest batches, C=2500 at 187 rows: 6.0 x the tokens/s of the full cache at 27 rows",
        "r1-llama-8b, real run: 16,000 of 16,375 steps, took 1.020 x the time that short stretches predict",
    ]
    assert [list(aim["met"].values()) for aim in found["aims"]] == [[True], [True], [], [False], [True], [True]]
    assert "under 1 % of the time: r1-llama-8b C=2500 2.00% MISSED, r1-llama-8b C=5000 n/a" in said[10]
    # the aims are for other sizes
    assert verdict.verdict(data_of(SMALL, decode=[]))["aims"] == []


def correct(**more):
    return {"model": "m", "name": "logits", "ok": True} | more


SOUND = {"part": "correct", "unit": "logits", "rc": 0}
SKIPPED = {"part": "decode", "unit": "m", "model": "m", "name": "a row"}
CHECK = {"stem": "sample", "case": "b", "ok": False}


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({}, "RIGHT: nothing broke, but no part that was asked for compares results"),
        ({"correct": [correct()]}, "RIGHT: all 1 comparisons of logits and replies, all 0 checks of kernels"),
        ({"correct": [correct()], "skipped": [SKIPPED | {"table": "decode"}]}, "RIGHT: all 1 comp"),
        ({"skipped": [SKIPPED | {"table": "correct"}]}, "INCOMPLETE: not run or cut: decode m m a row"),
        (
            {"skipped": [{"part": "kernel-checks", "unit": "sample"}]},
            "INCOMPLETE: not run or cut: kernel-checks sample",
        ),
        # a process of `decode` that was cut behind its comparison
        ({"correct": [correct()], "parts": [{"part": "decode", "unit": "m", "rc": -9, "cut": True}]}, "RIGHT: all 1"),
        ({"parts": [{"part": "decode", "unit": "m", "rc": -9, "cut": True}]}, "INCOMPLETE: not run or cut: decode m"),
        ({"checks": [CHECK] * 5}, "WRONG: wrong: sample b, sample b, sample b and 2 more"),
        ({"errors": [SKIPPED | {"table": "decode"}]}, "WRONG: broke: decode m m a row"),
        ({"parts": [SOUND | {"rc": 1}]}, "WRONG: killed or failed: correct logits"),
        ({"correct": [correct(captured=False)]}, "WRONG: not captured: m logits"),
    ],
)
def test_the_conclusion_is_one_word_and_why(tables, said):
    data = data_of(**tables)
    assert verdict.conclusion(data).startswith(said)


def test_counts_tell_wrong_from_incomplete():
    skipped = [{"part": "kernel-checks", "unit": "sample", "stem": "sample", "table": "checks"}]
    data = data_of(checks=[CHECK, CHECK | {"ok": True}], skipped=skipped)
    assert "kernels: WRONG (1 of 2 right, 0 broke, 1 not run)" in verdict.lines(verdict.verdict(data))
    data["checks"] = data["checks"][1:]
    assert "kernels: INCOMPLETE (1 of 1 right, 0 broke, 1 not run)" in verdict.lines(verdict.verdict(data))


def test_a_row_that_no_graph_replayed_is_named_on_a_gpu():
    decode = [row(captured=True), row("dynts C=5000", captured=False), row("eager", "eager")]
    products = [{"model": "m", "product": "qkv", "provider": "cublas", "captured": False, "error": "out of memory"}]
    assert verdict.uncaptured(data_of(decode=decode, products=products)) == ["r1-llama-8b dynts C=5000"]
    assert verdict.uncaptured(data_of(SMALL, decode=decode)) == []
    assert verdict.wrong(data_of(products=products)) == ["m qkv cublas"]


def test_the_page_names_every_aim():
    page = PACKAGE.parent / "docs" / "gpu.md"
    if not page.is_file():
        pytest.skip("kvrepro is installed without its checkout")
    assert [aim.text for aim in verdict.AIMS if f"- {aim.text}" not in page.read_text()] == []
