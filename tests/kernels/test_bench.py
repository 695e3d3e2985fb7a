"""The benchmark's cases run, count bytes, and cover every kernel."""

from __future__ import annotations

import pytest
import torch
from kvrepro.kernels import bench, bench_cases, checks


def test_every_kernel_has_a_row():
    assert {kernel for kernel, _ in bench_cases.CASES} == set(checks.STEMS)


@pytest.mark.parametrize(("kernel", "label"), bench_cases.CASES)
def test_a_case_runs_on_a_cpu_in_small(kernel, label):
    make = bench_cases.CASES[kernel, label]
    # numbers above 100 are slots or vocabulary; the rest are rows, windows and the like
    small = [a if not isinstance(a, int) or a <= 100 else max(9, a // 200) for a in make.args]
    prepared = make.func(*small, device="cpu")
    prepared.run("reference")
    for other in prepared.others.values():
        other()
    assert prepared.bytes > 0


def test_the_library_kernel_does_the_same_work():
    prepared = bench_cases._decode("qwen-7b", 2, 9, None, "cpu")
    ours = prepared.run("reference")[0]
    assert torch.allclose(ours.float(), prepared.others["sdpa"]()[:, :, 0].float(), atol=2e-2)


class Prepared:
    """A case that does nothing."""

    bytes, others = 1000, {}

    def run(self, impl):
        pass


@pytest.fixture
def timings(monkeypatch):
    """Repeats of 1 ms, or of 1 us for a provider that is tiny; returns what was captured, and in how many launches."""
    asked = []

    def timed(run, capture, device, launches=1):
        run()
        asked.append((capture, launches))
        return [1e-3 if capture else 1.0] * 6

    monkeypatch.setattr(bench, "time_ms", timed)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "none")
    return asked


def test_of_a_tiny_kernel_one_graph_holds_several_launches(monkeypatch, timings):
    monkeypatch.setattr(bench, "CASES", {("sample", "small"): lambda device: Prepared()})
    tiny, twin = (bench.time_case("sample", "small", provider, None) for provider in ("triton", "torch"))
    assert timings == [(True, 1), (True, bench.TINY_LAUNCHES), (False, 1)]
    assert (tiny.launches, tiny.graph, twin.launches, twin.graph) == (bench.TINY_LAUNCHES, True, 1, False)
    assert tiny.gb_per_s == pytest.approx(1.0) and tiny.fraction_of_copy is None


def test_the_providers_of_a_case_are_known_without_a_device():
    for kernel, label in bench_cases.CASES:
        assert bench.providers(kernel, label)[:2] == ["triton", "torch"]
    assert bench.providers("decode_attention", "llama-8b B20 n2501")[2:] == ["sdpa"]
