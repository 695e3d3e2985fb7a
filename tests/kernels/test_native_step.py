"""The compiled decode step against torch: odd sizes, ragged rows, unused slots full of NaN, every width of vector."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
import time
from ctypes import sizeof

import pytest
import torch
from kvrepro.kernels.native import library, structures
from kvrepro.kernels.native.decode_step import DecodeStep

from kvrepro.engine.decoders import native as native_decoder
from kvrepro.engine.decoders.fused import FusedDecoder
from kvrepro.engine.decoders.native import NativeDecoder
from kvrepro.engine.stage_timer import StageTimer

from ..conftest import has_compiler
from .native_cases import CAPACITY, LENGTHS, SHAPES, TOLERANCE, X86_LEVELS, compare, filled, model_of

if not has_compiler():
    pytest.skip("there is no C++ compiler here to build the decode step with", allow_module_level=True)


def test_where_there_is_a_compiler_it_builds():
    assert native_decoder.unavailable() is None


def test_both_sides_mean_the_same_structures():
    built = library.load_library(native_decoder.native_folder())
    for name in ("linear", "layer", "step", "head"):
        structure = getattr(structures, f"{name.capitalize()}Args")
        assert getattr(built, f"kvrepro_bytes_of_{name}")() == sizeof(structure), name


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_step_is_torchs_step(kind, shape, dtype):
    gaps = compare(model_of(kind, shape, dtype), LENGTHS)
    assert max(gaps) < TOLERANCE[dtype], f"relative gaps {gaps}"


@pytest.mark.parametrize("rows", range(1, 10))
def test_any_number_of_rows(rows):
    assert max(compare(model_of("llama", SHAPES["H48-Q6-K2-D8-I96"]), LENGTHS[:rows], steps=1)) < 1e-5


def test_biases_everywhere():
    model = model_of("llama", SHAPES["H50-Q5-K1-D10-I13"], attention_bias=True, mlp_bias=True)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
    assert max(compare(model, LENGTHS[:3])) < 1e-5


@pytest.mark.parametrize("threads", [1, 2, 3])
@torch.inference_mode()
def test_a_row_has_the_same_bits_alone_and_among_others_on_any_number_of_threads(threads):
    model = model_of("qwen2", SHAPES["H96-Q6-K3-D64-I200"])
    decoder, before = NativeDecoder(model), torch.get_num_threads()
    tokens = torch.arange(len(LENGTHS)) + 30
    together = decoder.step(tokens, filled(model, LENGTHS, torch.nan))
    torch.set_num_threads(threads)
    try:
        for row in (0, 5, 10):
            cache = filled(model, LENGTHS, torch.nan)
            while cache.n_rows > row + 1:
                cache.release(cache.n_rows - 1)
            if row:
                # the row moves to the front, the others go
                cache.release(0)
            while cache.n_rows > 1:
                cache.release(cache.n_rows - 1)
            alone = decoder.step(tokens[row : row + 1], cache)
            for a, t in zip(alone, together, strict=True):
                assert torch.equal(a[0], t[row])
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def test_a_nan_in_a_slot_in_use_is_not_hidden():
    model = model_of("llama", SHAPES["H48-Q6-K2-D8-I96"])
    cache = filled(model, LENGTHS[:3], 0.0)
    cache.kv[0, 0, 1, 0, 100, 3] = torch.nan
    logits, _ = NativeDecoder(model).step(torch.arange(3) + 20, cache)
    assert logits[1].isnan().all() and logits[[0, 2]].isfinite().all()


@torch.inference_mode()
def test_queries_and_attention_are_shown_layer_by_layer():
    model = model_of("llama", SHAPES["H36-Q9-K1-D22-I100"])
    seen = {}
    for name, cls, poison in (("torch", FusedDecoder, 0.0), ("native", NativeDecoder, torch.nan)):
        cache = filled(model, LENGTHS, poison)
        cache.keep_queries(4)
        caught = seen[name] = []
        cache.on_mass = lambda cache, layer, mass, caught=caught: caught.append((layer, mass.clone()))
        cls(model).step(torch.arange(len(LENGTHS)) + 20, cache)
        caught.append(("queries", cache.query_ring.storage.clone()))
        # without attention the queries come all at once
        cache.on_mass = None
        cls(model).step(torch.arange(len(LENGTHS)) + 40, cache)
        caught.append(("queries", cache.query_ring.storage.clone()))
    assert [name for name, _ in seen["native"]] == [0, 1, "queries", "queries"] == [name for name, _ in seen["torch"]]
    for (_, found), (_, wanted) in zip(seen["native"], seen["torch"], strict=True):
        assert torch.allclose(found, wanted, atol=2e-6)
    mass = seen["native"][0][1]
    assert torch.allclose(mass.sum(-1), torch.ones(mass.shape[:-1]), atol=1e-5)
    assert all((mass[row, :, :, n + 1 :] == 0).all() for row, n in enumerate(LENGTHS))


@pytest.mark.slow
@pytest.mark.parametrize("level", X86_LEVELS)
def test_narrower_vectors_compute_the_same(level, tmp_path, monkeypatch):
    """What is compiled depends on the processor; vectors of 4 and 8 lanes run on any x86 of the last ten years."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"-march={level} is of x86, this is a {platform.machine()}")
    built = library.load_library(tmp_path, level)
    monkeypatch.setattr(native_decoder, "load_library", lambda folder: built)
    for dtype, limit in TOLERANCE.items():
        for shape in SHAPES.values():
            assert max(compare(model_of("llama", shape, dtype), LENGTHS, steps=1)) < limit


@torch.inference_mode()
def test_weights_are_read_where_the_model_holds_them():
    model = model_of("llama", SHAPES["H48-Q6-K2-D8-I96"])
    decoder = NativeDecoder(model)
    before, _ = decoder.step(torch.tensor([30]), filled(model, [5], 0.0))
    model.model.layers[1].mlp.down_proj.weight.mul_(3)
    after, _ = decoder.step(torch.tensor([30]), filled(model, [5], 0.0))
    wanted, _ = FusedDecoder(model).step(torch.tensor([30]), filled(model, [5], 0.0))
    assert not torch.equal(before, after) and torch.allclose(after, wanted, atol=1e-4)


@torch.inference_mode()
def test_time_by_part_is_there_when_asked_for():
    model = model_of("llama", SHAPES["H96-Q6-K3-D64-I200"])
    decoder, cache = NativeDecoder(model), filled(model, LENGTHS, 0.0)
    for clock in ("wall", "cpu"):
        timer = StageTimer({}, torch.device("cpu"), clock)
        for _ in range(3):
            decoder.step(torch.arange(len(LENGTHS)), cache, timer)
        assert set(timer.seconds) == {"projections", "attention", "mlp", "head"}
        assert all(seconds > 0 for seconds in timer.seconds.values())


@torch.inference_mode()
def test_what_does_not_fit_is_refused_by_name():
    model = model_of("llama", SHAPES["H48-Q6-K2-D8-I96"])
    step = NativeDecoder(model).compiled
    cache, x = filled(model, [5, 7], 0.0), torch.zeros(2, 48)
    angles = torch.zeros(2, 8)
    at = torch.tensor([5, 7])
    good = dict(x=x, kv=cache.kv, slots=at, span=8, cos=angles, sin=angles)
    step.layers(**good)
    for change, words in (
        (dict(x=x.double()), "x is torch.float64"),
        (dict(x=torch.zeros(2, 96)[:, ::2]), "strides .96, 2."),
        (dict(cos=torch.zeros(2, 4)), "cos is torch.float32 of shape .2, 4."),
        (dict(slots=at.int()), "slots is torch.int32"),
        (dict(kv=cache.kv.bfloat16()), "kv is torch.bfloat16"),
        (dict(span=CAPACITY + 1), f"rows of {CAPACITY + 1} slots"),
        (dict(queries=torch.zeros(1, 2, 6, 8)), "queries is .* expected .*2, 2, 6, 8"),
        (dict(mass=torch.zeros(2, 2, 3, 8)), "mass is of one layer, asked of 2"),
    ):
        with pytest.raises(ValueError, match=words):
            step.layers(**(good | change))
    with pytest.raises(ValueError, match="x is .*expected contiguous torch.float32 of shape .3, 48."):
        step.head(torch.zeros(3, 40))


def test_weights_that_it_cannot_read_are_refused_by_name():
    model = model_of("llama", SHAPES["H48-Q6-K2-D8-I96"])
    layers, norm, head = NativeDecoder(model).compiled.weights
    built = library.load_library(native_decoder.native_folder())
    with pytest.raises(ValueError, match="6 query heads on 3 of 8 channels do not fit projections to 48 and 16"):
        DecodeStep(built, layers, norm, 1e-6, head, 6, 3, 8)
    with pytest.raises(ValueError, match="shape .48, 230. is torch.float32.* all must be contiguous"):
        DecodeStep(built, layers, norm, 1e-6, (head[0].t(), None), 6, 2, 8)
    with pytest.raises(ValueError, match="shape .48,. is torch.float64"):
        DecodeStep(built, layers, norm.double(), 1e-6, head, 6, 2, 8)


def test_a_library_is_built_once_and_anew_when_something_changed(tmp_path, monkeypatch):
    commands = []
    run = library._run
    monkeypatch.setattr(library, "_run", lambda command: commands.append(command) or run(command))
    # the real sources take seconds to compile, an empty one does not
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / library.MAIN).write_text('extern "C" int kvrepro_answer() { return 42; }\n')
    monkeypatch.setattr(library, "SOURCES", sources)

    def load():
        library.load_library.cache_clear()
        return library.load_library(tmp_path / "built")

    try:
        assert load().kvrepro_answer() == 42
        builds = sum("-o" in command for command in commands)
        load()
        assert builds == 1 == sum("-o" in command for command in commands)
        (sources / library.MAIN).write_text('extern "C" int kvrepro_answer() { return 43; }\n')
        assert load().kvrepro_answer() == 43
        left = sorted(path.suffix for path in (tmp_path / "built").iterdir())
        assert left == [".lock", ".lock", ".so", ".so"], "something half-written was left"
        (sources / library.MAIN).write_text("this is no C++\n")
        with pytest.raises(library.NativeUnavailableError, match="ended with code 1: .*error"):
            load()
        (sources / library.MAIN).write_text('extern "C" int kvrepro_answer() { return 44; }\n')
        load()
        newest = max((tmp_path / "built").glob("*.so"), key=lambda path: path.stat().st_mtime_ns)
        copy = tmp_path / "other" / newest.name
        copy.parent.mkdir()
        copy.write_bytes(b"not a library")
        with pytest.raises(library.NativeUnavailableError, match="does not load .*delete it"):
            library.load_library(copy.parent)
    finally:
        library.load_library.cache_clear()


BUILD = """
import sys, time
from pathlib import Path
from kvrepro.kernels.native import library
library.SOURCES, library.PATIENCE_S = Path(sys.argv[1]), 0.2
build, mark = library._build, Path(sys.argv[1]) / "begun"
def slow(*arguments):
    mark.touch()
    while not (mark.parent / "go").exists():
        time.sleep(0.02)
    build(*arguments)
library._build = slow
print(library.load_library(Path(sys.argv[2])).kvrepro_answer())
"""


def test_only_the_process_that_compiles_says_so_and_others_say_whom_they_wait_for(tmp_path):
    (tmp_path / library.MAIN).write_text('extern "C" int kvrepro_answer() { return 42; }\n')
    command = [sys.executable, "-c", BUILD, str(tmp_path), str(tmp_path / "built")]

    def start():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    first = start()
    while not (tmp_path / "begun").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.02)
    second = start()
    said = second.stderr.readline()
    (tmp_path / "go").touch()
    (shown, told), (other, more) = first.communicate(), second.communicate()
    assert (shown, other) == ("42\n", "42\n")
    begun, ended = told.splitlines()
    assert begun == "compiling the decode step for this processor, once ..."
    assert re.fullmatch(rf"compiled the decode step in \d+ s; it is kept in {tmp_path / 'built'}", ended)
    assert (
        said.startswith(f"process {first.pid} on ") and said.endswith("this processor: waiting for it\n") and not more
    )
    # and once it is there nobody says anything
    third = start().communicate()
    assert third == ("42\n", "")


def test_without_a_compiler_the_message_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(library.NativeUnavailableError, match="no C.. compiler found .c.., g.., clang.., or name one"):
        library.load_library(tmp_path / "a")
    monkeypatch.setenv("CXX", "no-such-compiler -v")
    with pytest.raises(library.NativeUnavailableError, match="no-such-compiler"):
        library.load_library(tmp_path / "b")
