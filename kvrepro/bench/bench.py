"""The comparison itself: a worker per variant, requests in turn, several rounds, medians."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..paths import PACKAGE
from ..runs.processes import child_command
from . import kvpress_environment
from .settings import DYNTS, GENERATE, KVPRESS, VARIANTS, WINDOW, BenchSettings

# logits of the same weights in two versions of transformers may round differently
SAME_LOGITS = {"float32": 1e-3, "bfloat16": 0.1}


class WorkerProcess:
    """A `worker` in the background."""

    def __init__(self, variant: str, python: Path | str, model_folder: Path, dtype: str, threads: int):
        self.variant = variant
        environment = os.environ | {
            "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }  # fmt: skip
        if threads == 1:
            environment["GOMP_SPINCOUNT"] = "0"
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self.process = subprocess.Popen(
            child_command(
                "kvrepro.bench.worker", variant, str(model_folder), dtype, str(threads), python=str(python)
            ),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment,
            cwd=model_folder,
        )  # fmt: skip
        self.hello = self._read()

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            last = [text for text in self.errors.read().splitlines() if text.strip()][-1:]
            raise RunError(f"{self.variant} ended with code {self.process.returncode}: {' '.join(last)[:500]}")
        return json.loads(line)

    def close(self) -> None:
        """End of input ends the worker."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def write_model(folder: Path, config: Any, dtype: str) -> None:
    """Random weights, seed 0, as an ordinary checkpoint: the same for both environments."""
    import torch

    from ..models.random_weights import build

    torch.manual_seed(0)
    build(config, "cpu", getattr(torch, dtype)).save_pretrained(folder)


def run_bench(
    plan: BenchSettings, config: Any, dtype: str, threads: int, variants: tuple[str, ...] = VARIANTS,
    limit_s: float = float("inf"), say: Callable[[str], None] = print,
    kvpress: Callable[[], tuple[Path | None, str]] = kvpress_environment.ensure,
) -> dict[str, Any]:  # fmt: skip
    """Measure everything in the plan.

    Returns:
        `points` (per variant, request and clock the rounds' milliseconds and the peak memory), `confirm` (real runs),
        `split` (parts of a step), `workers` (versions), `skipped` (what was left out, and why).
    """
    started = time.perf_counter()
    data: dict[str, Any] = {"points": [], "confirm": [], "split": [], "workers": {}, "skipped": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_model(folder, config, dtype)
        workers = _start(variants, folder, dtype, threads, data, say, kvpress)
        try:
            if DYNTS in workers:
                data["machine"] = workers[DYNTS].ask({"op": "machine"})
            measure = Measure(plan, workers, data, started + limit_s, say)
            for batch in plan.batches:
                measure.batch(batch)
                if DYNTS in workers:
                    # neighbours of a shared machine come and go: the roof is the best that was seen
                    again = workers[DYNTS].ask({"op": "machine"})
                    data["machine"] = {name: max(rate, again[name]) for name, rate in data["machine"].items()}
                if batch == plan.confirm_batch and plan.confirm_tokens:
                    measure.confirm()
        finally:
            for worker in workers.values():
                worker.close()
    data["seconds"] = round(time.perf_counter() - started, 1)
    return data


def _start(
    variants: tuple[str, ...], folder: Path, dtype: str, threads: int, data: dict, say: Callable[[str], None],
    kvpress: Callable[[], tuple[Path | None, str]],
) -> dict[str, WorkerProcess]:  # fmt: skip
    workers: dict[str, WorkerProcess] = {}
    for variant in variants:
        python: Path | str | None = sys.executable
        if variant == KVPRESS:
            python, why = kvpress()
        if python is None:
            say(f"{variant}: {why}")
            data["skipped"].append({"variant": variant, "why": why})
            continue
        workers[variant] = WorkerProcess(variant, python, folder, dtype, threads)
        hello = data["workers"][variant] = workers[variant].hello
        first = next(iter(data["workers"].values()))["fingerprint"]
        gap = max(abs(a - b) for a, b in zip(hello["fingerprint"], first, strict=True))
        if gap > SAME_LOGITS[dtype] * max(map(abs, first)):
            raise RunError(
                f"{variant} computes other logits than {next(iter(workers))} from the same weights (gap {gap:.3g})"
            )
    return workers


class Measure:
    """Fills `data` batch by batch until the time is up."""

    def __init__(
        self, plan: BenchSettings, workers: dict[str, WorkerProcess], data: dict[str, Any], deadline: float,
        say: Callable[[str], None],
    ):  # fmt: skip
        self.plan, self.workers, self.data, self.deadline, self.say = plan, workers, data, deadline, say

    def batch(self, batch: int) -> None:
        """All variants at one batch, round by round; variants take turns request by request."""
        self._split(batch)
        queues = {v: self.plan.requests(v, batch) for v in self.workers}
        points: dict[tuple[str, int], dict[str, Any]] = {}
        for number in range(self.plan.rounds):
            for place in range(max(map(len, queues.values()), default=0)):
                for variant, queue in queues.items():
                    if place >= len(queue):
                        continue
                    if time.perf_counter() > self.deadline:
                        self._cut(batch, number, points)
                        return
                    answer = self.workers[variant].ask(queue[place])
                    point = points.setdefault(
                        (variant, place), {"variant": variant, **queue[place], "wall_ms": [], "cpu_ms": []}
                    )
                    point["wall_ms"].append(round(answer["wall"], 3))
                    point["cpu_ms"].append(round(answer["cpu"], 3))
                    for key in ("peak_rss_bytes", "kv_bytes", "is_own_peak"):
                        if key in answer:
                            point[key] = max(point.get(key, 0), answer[key])
            self.say(f"batch {batch}: round {number + 1} of {self.plan.rounds}")
        self.data["points"] += points.values()

    def _cut(self, batch: int, rounds: int, points: dict) -> None:
        why = f"out of time after {rounds} of {self.plan.rounds} rounds"
        self.say(f"batch {batch}: {why}")
        self.data["skipped"].append({"batch": batch, "why": why})
        if rounds:
            # whole rounds only, so that all variants have met the same moments
            for point in points.values():
                point["wall_ms"], point["cpu_ms"] = point["wall_ms"][:rounds], point["cpu_ms"][:rounds]
            self.data["points"] += points.values()

    def _split(self, batch: int) -> None:
        plan = self.plan
        if DYNTS not in self.workers or time.perf_counter() > self.deadline:
            return
        budget = plan.long_budget if plan.long_budget in plan.budgets else plan.budgets[-1]
        request = {
            "op": "split", "rows": batch, "budget": budget, "evict_every": plan.evict_every, "length": budget,
            "steps": min(16, plan.evict_every - 1), "clock": plan.clock,
        }  # fmt: skip
        self.data["split"].append({"variant": DYNTS, **request, **self.workers[DYNTS].ask(request)})

    def confirm(self) -> None:
        """Whole replies beside what the stretches promise."""
        plan = self.plan
        for variant in (WINDOW, GENERATE):
            if variant not in self.workers:
                continue
            if time.perf_counter() > self.deadline:
                self.data["skipped"].append({"variant": variant, "why": "out of time before the confirming run"})
                continue
            request = {
                "op": "reply", "rows": plan.confirm_batch, "prompt": plan.prompt, "new_tokens": plan.confirm_tokens,
                "budget": None if variant == GENERATE else plan.confirm_budget, "evict_every": plan.evict_every,
            }  # fmt: skip
            answer = self.workers[variant].ask(request)
            self.data["confirm"].append({"variant": variant, **request, **answer})
            self.say(f"{variant}: {plan.confirm_tokens} tokens for real in {answer['wall'] / 1e3:.1f} s")


def median_ms(point: dict[str, Any], clock: str) -> float:
    """Median of the rounds by `wall` or `cpu`."""
    return statistics.median(point[f"{clock}_ms"])
