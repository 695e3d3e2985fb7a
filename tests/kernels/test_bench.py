"""The benchmark's cases run, count bytes, and cover every kernel; without a GPU it measures nothing and says so."""

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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so the benchmark would run")
def test_without_a_gpu_nothing_is_measured(capsys):
    assert bench.main([]) == 1
    captured = capsys.readouterr()
    assert "kernels are timed on a GPU only" in captured.err and not captured.out


def test_a_provider_that_breaks_is_recorded_and_the_others_keep_their_rows(monkeypatch):
    class Prepared:
        bytes, others = 1000, {}

        def run(self, impl):
            if impl == "triton":
                raise TypeError("does not compile")

    def timed(run, capture):
        run()
        return [1.0] * 6

    monkeypatch.setattr(bench, "CASES", {("sample", "small"): lambda device: Prepared()})
    monkeypatch.setattr(bench, "time_ms", timed)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "none")
    failures = []
    rows = bench.bench(copy=1e9, passed={"sample"}, failures=failures)
    assert failures == [{"name": "sample small triton", "why": "TypeError: does not compile"}]
    assert [row.provider for row in rows] == ["torch"]
