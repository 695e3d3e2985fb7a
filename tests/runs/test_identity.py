"""A cell's hash covers all that changes its tokens or scores, and nothing else."""

from __future__ import annotations

import dataclasses
import re

from kvrepro.runs.config import FIELD_NAMES, CellConfig

from .test_config import BASE, DYNTS

CHANGES = {
    "model": "r1-llama",
    "benchmark": "chain-23",
    "method": "random",
    "budget": 193,
    "window": 33,
    "ratio": 0.7,
    "pin_overflow": "keep_first",
    "n_problems": 7,
    "n_samples": 2,
    "max_new_tokens": 99,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 21,
    "sampling_order": "dynts",
    "seed": 43,
    "batch_rows": 65,
    "predictor": "elsewhere",
    "options": {"pin_answer": False},
}


def test_hash_changes_with_every_field():
    apart = {"evict_every", "prompt_style", "protocol", "calibration", "judge"}
    assert set(CHANGES) | apart == set(FIELD_NAMES), "a new field needs a row in CHANGES"
    base = CellConfig.from_mapping(DYNTS)
    hashes = {"base": base.hash8}
    for name, value in CHANGES.items():
        hashes[name] = dataclasses.replace(base, **{name: value}).hash8
    # a ratio excludes `evict_every`, so its pair has no ratio
    every = [CellConfig.from_mapping({**DYNTS, "ratio": None, "evict_every": n}).hash8 for n in (8, 9)]
    hashes.update(zip(("every 8", "every 9"), every, strict=True))
    # what a budget means: the same sizes under both protocols
    for protocol in ("fair", "as_published"):
        sizes = {"method": "rkv", "ratio": None, "evict_every": 8, "protocol": protocol}
        hashes[protocol] = CellConfig.from_mapping({**DYNTS, **sizes}).hash8
    # a folder counts for the method that reads it, the model's own included
    for method, name in (("triattention", "calibration"), ("foresight_kv", "judge")):
        mine = {**DYNTS, "method": method, "ratio": None}
        hashes[method] = CellConfig.from_mapping(mine).hash8
        hashes[name] = CellConfig.from_mapping({**mine, name: "elsewhere"}).hash8
    # the generated benchmarks have one style, so its pair is a real one
    for style in ("dynts", "deepseek"):
        hashes[style] = dataclasses.replace(base, benchmark="aime24", n_problems=7, prompt_style=style).hash8
    assert len(set(hashes.values())) == len(hashes), hashes
    assert all(re.fullmatch("[0-9a-f]{8}", h) for h in hashes.values())


def test_equal_configs_have_equal_hashes_whatever_their_origin():
    config = CellConfig.from_mapping(DYNTS)
    again = CellConfig.from_mapping(dict(reversed(DYNTS.items())))
    assert config == again
    assert config.hash8 == again.hash8 == CellConfig.from_mapping(config.resolved()).hash8
    assert CellConfig.from_mapping({**DYNTS, "temperature": 1}).hash8 == CellConfig(**DYNTS, temperature=1.0).hash8


def test_equal_configs_have_equal_hashes_when_a_float_is_written_as_an_integer():
    one, also_one = CellConfig(**DYNTS, temperature=1), CellConfig(**DYNTS, temperature=1.0)
    assert one == also_one
    assert one.hash8 == also_one.hash8


def test_hash_covers_the_rows_of_the_benchmark(monkeypatch):
    config = CellConfig.from_mapping(DYNTS)
    before = config.hash8
    monkeypatch.setattr("kvrepro.benchmarks.table.rows_hash", lambda problems: "other rows")
    assert dataclasses.replace(config).hash8 != before
    assert config.hash8 == before, "a cell keeps the name that it had when it was asked for it"


def test_the_table_knows_which_methods_read_a_trained_folder():
    from kvrepro.methods.table import METHODS, method_class

    for name, entry in METHODS.items():
        trained = [need for need in method_class(name).needs if need in ("predictor", "calibration", "judge")]
        assert list(entry.learned) == trained, name


def test_another_head_leaves_the_cells_of_other_methods_alone():
    for method, changes in (("dynts", True), ("window", False), ("full", False)):
        sizes = {} if method != "full" else {"budget": None, "window": None, "ratio": None}
        base = CellConfig.from_mapping({**DYNTS, "method": method, **sizes})
        assert (dataclasses.replace(base, predictor="org/head").hash8 != base.hash8) == changes


def test_a_raised_revision_gives_cells_of_that_method_alone_another_hash(monkeypatch):
    from kvrepro.methods.table import METHODS

    cells = [CellConfig.from_mapping({**BASE, "method": m, "budget": 160}) for m in ("snapkv", "window")]
    first = [cell.hash8 for cell in cells]
    hashes = set()
    for revision in (1, 2, 3):
        monkeypatch.setitem(METHODS, "snapkv", dataclasses.replace(METHODS["snapkv"], revision=revision))
        now = [dataclasses.replace(cell).hash8 for cell in cells]
        hashes.add(now[0])
        assert now[1] == first[1]
    assert len(hashes) == 3
    streaming = [
        CellConfig.from_mapping({**BASE, "method": "streaming_llm", "budget": 160, "options": options})
        for options in (None, {"reindex": True})
    ]
    before = [cell.hash8 for cell in streaming]
    # keys that are moved no longer drift; where none is moved nothing has changed
    entry = dataclasses.replace(METHODS["streaming_llm"], switch_revisions=())
    monkeypatch.setitem(METHODS, "streaming_llm", entry)
    after = [dataclasses.replace(cell).hash8 for cell in streaming]
    assert [new == old for new, old in zip(after, before, strict=True)] == [True, False]
    # the age of a key was off by one in the first
    assert METHODS["triattention"].revision == 2


def test_hash_covers_weights_and_head(tmp_path):
    folder = tmp_path / "model"
    (folder / "importance").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    files = (folder / "model.safetensors", folder / "importance" / "model.safetensors")
    hashes = set()
    for content in ((b"a", b"b"), (b"x", b"b"), (b"x", b"y")):
        for file, data in zip(files, content, strict=True):
            file.write_bytes(data)
        # each state at a path of its own
        place = folder.rename(tmp_path / f"model{len(hashes)}")
        hashes.add(CellConfig.from_mapping({**DYNTS, "model": str(place)}).hash8)
        place.rename(folder)
    assert len(hashes) == 3
