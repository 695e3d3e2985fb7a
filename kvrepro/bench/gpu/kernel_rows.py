"""Kernels against their torch twins on the device, and their timings."""

from __future__ import annotations

import os
from dataclasses import asdict
from importlib import import_module
from typing import Any

from ...kernels import bench
from ...kernels.bench_cases import CASES
from ...kernels.checks import STEMS
from ...kernels.checks.common import case_name, run_cases
from .child import Task
from .plan import PDL_ENVIRONMENT


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
    # as they will be timed
    os.environ.update(PDL_ENVIRONMENT)
    for kernel, label in CASES:
        if kernel == task.name:
            work = CASES[kernel, label]
            task.rows.add("warm", lambda w=work: _launched(w), with_clocks=False, name=f"{kernel} {label}")


def _launched(make: Any) -> dict[str, Any]:
    make("cuda").run("triton")
    return {}


def time(task: Task) -> None:
    """A row per case and provider of every kernel whose checks have passed in this run."""
    for kernel, label in CASES:
        if kernel not in task.known["passed"] or kernel not in (task.sizes.timed_kernels or STEMS):
            continue
        for provider in bench.providers(kernel, label):
            given = (kernel, label, provider, task.known["copy_bytes_per_s"], task.settings.device)
            labels = dict(kernel=kernel, case=label, provider=provider)
            task.rows.add("kernels", lambda g=given: asdict(bench.time_case(*g)), **labels)
