"""Kernels against their torch twins on the device, and their timings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module
from typing import Any

from ...kernels import bench
from ...kernels.bench_cases import CASES
from ...kernels.checks.common import case_name, run_cases
from .child import Task


def check(task: Task) -> None:
    """Every case of one kernel, then one launch of each case that will be timed, so that it is compiled by then."""
    module, impl = import_module(f"kvrepro.kernels.checks.{task.name}"), "triton" if task.on_gpu else "reference"
    cases = [*module.CASES, *(module.LARGE_CASES if task.on_gpu else [])][: task.sizes.cases]

    def checked(case: Any) -> dict[str, Any]:
        [result] = run_cases(module, task.settings.device, impl, [case])
        return asdict(result) | {"ok": result.ok}

    for case in cases:
        labels = dict(stem=task.name, case=case_name(case))
        task.rows.add("checks", lambda c=case: checked(c), with_clocks=False, **labels)
    if not task.on_gpu:
        return
    for kernel, label in CASES:
        if kernel == task.name:
            work = CASES[kernel, label]
            task.rows.add("warm", lambda w=work: _launched(w), with_clocks=False, name=f"{kernel} {label}")


def _launched(make: Any) -> dict[str, Any]:
    make("cuda").run("triton")
    return {}


def time(task: Task) -> None:
    """Rows of every kernel whose checks have passed in this run."""
    timed: dict[str, int] = {}
    for kernel, label in CASES:
        timed[kernel] = timed.get(kernel, 0) + 1
        is_left_out = kernel not in task.known["passed"] or (task.sizes.small and timed[kernel] > 1)
        if not is_left_out:
            labels = dict(kernel=kernel, case=label)
            task.rows.add("kernels", lambda k=kernel, c=label: _timings(task, k, c), **labels)


def _timings(task: Task, kernel: str, label: str) -> Iterator[dict[str, Any]]:
    failures: list[dict[str, str]] = []
    for row in bench.case_rows(kernel, label, task.known["copy_bytes_per_s"], failures, task.settings.device):
        yield asdict(row)
    for failure in failures:
        task.rows.note("errors", {"name": failure["name"]}, failure["why"])
