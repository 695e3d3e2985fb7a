"""The comparison of `kvrepro bench`: a worker process per variant, requests in turn, several rounds, medians."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..models.shapes import build
from ..paths import PACKAGE
from ..runs.processes import child_command
from . import kvpress_environment
from .laps import in_turn
from .settings import DYNTS, GENERATE, KVPRESS, OURS, VARIANTS, WINDOW, BenchSettings

# logits of the same weights in two versions of transformers may round differently
SAME_LOGITS = {"float32": 1e-3, "bfloat16": 0.1}


class WorkerProcess:
    """A `worker` in the background."""

    def __init__(self, variant: str, python: Path | str, model_folder: Path, dtype: str, threads: int):
        self.variant = variant
        environment = {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        environment["TOKENIZERS_PARALLELISM"] = "false"
        if threads == 1:
            environment["GOMP_SPINCOUNT"] = "0"
        module = "kvrepro.bench.engine_worker" if variant in OURS else "kvrepro.bench.worker"
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self.process = subprocess.Popen(
            child_command(module, variant, str(model_folder), dtype, str(threads), python=str(python)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=os.environ | environment,
            cwd=model_folder,
        )
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

    torch.manual_seed(0)
    build(config, "cpu", dtype).save_pretrained(folder)


@dataclass
class Measure:
    """A comparison under way; fills `data` until `deadline`, a time of `perf_counter`."""

    plan: BenchSettings
    workers: dict[str, WorkerProcess]
    data: dict[str, Any]
    deadline: float
    say: Callable[[str], None]

    def start(self, variant: str, python: Path | str, folder: Path, dtype: str, threads: int) -> None:
        """Start a variant's worker.

        Raises:
            RunError: from the same weights it computes other logits than the first one.
        """
        worker = self.workers[variant] = WorkerProcess(variant, python, folder, dtype, threads)
        self.data["workers"][variant] = worker.hello
        base, first = next(iter(self.data["workers"].items()))
        pairs = zip(worker.hello["fingerprint"], first["fingerprint"], strict=True)
        gap = max(abs(a - b) for a, b in pairs)
        if gap > SAME_LOGITS[dtype] * max(map(abs, first["fingerprint"])):
            raise RunError(f"{variant} computes other logits than {base} from the same weights (gap {gap:.3g})")

    def machine(self) -> None:
        """What the machine can do; neighbours of a shared one come and go, so the roof is the best that was seen."""
        if DYNTS in self.workers:
            found, known = self.workers[DYNTS].ask({"op": "machine"}), self.data.get("machine", {})
            self.data["machine"] = {name: max(rate, known.get(name, 0.0)) for name, rate in found.items()}

    def skip(self, why: str, **what: Any) -> None:
        """Note what was left out."""
        self.say(f"{', '.join(f'{k} {v}' for k, v in what.items())}: {why}")
        self.data["skipped"].append({**what, "why": why})

    def batch(self, batch: int) -> None:
        """All variants at one batch, round by round; variants take turns request by request."""
        if DYNTS in self.workers and time.perf_counter() < self.deadline:
            split = self.plan.split_request(batch)
            self.data["split"].append({"variant": DYNTS, **split, **self.workers[DYNTS].ask(split)})
        asked = {(place, v): r for v in self.workers for place, r in enumerate(self.plan.requests(v, batch))}
        # the first request of every variant, then the second of every variant, and so on
        works = {key: partial(self.workers[key[1]].ask, asked[key]) for key in sorted(asked, key=itemgetter(0))}
        rounds: list[dict[tuple[int, str], dict[str, Any]]] = []
        for found in in_turn(works, self.plan.rounds, self.deadline):
            rounds.append(found)
            self.say(f"batch {batch}: round {len(rounds)} of {self.plan.rounds}")
        if len(rounds) < self.plan.rounds:
            self.skip(f"out of time after {len(rounds)} of {self.plan.rounds} rounds", batch=batch)
        for key in works if rounds else ():
            answers = [found[key] for found in rounds]
            point = {"variant": key[1], **asked[key]}
            point |= {f"{clock}_ms": [round(answer[clock], 3) for answer in answers] for clock in ("wall", "cpu")}
            sizes = [size for size in ("peak_rss_bytes", "kv_bytes", "is_own_peak") if size in answers[0]]
            self.data["points"].append(point | {size: max(answer[size] for answer in answers) for size in sizes})

    def confirm(self) -> None:
        """Whole replies beside what the stretches promise."""
        for variant in (WINDOW, GENERATE):
            if variant not in self.workers:
                continue
            if time.perf_counter() > self.deadline:
                self.skip("out of time before the confirming run", variant=variant)
                continue
            request = self.plan.reply_request(variant)
            answer = self.workers[variant].ask(request)
            self.data["confirm"].append({"variant": variant, **request, **answer})
            self.say(f"{variant}: {self.plan.confirm_tokens} tokens for real in {answer['wall'] / 1e3:.1f} s")


def run_bench(
    plan: BenchSettings,
    config: Any,
    dtype: str,
    threads: int,
    variants: tuple[str, ...] = VARIANTS,
    limit_s: float = float("inf"),
    say: Callable[[str], None] = print,
    kvpress: Callable[[], tuple[Path | None, str]] = kvpress_environment.ensure,
) -> dict[str, Any]:
    """Measure everything in the plan.

    Returns:
        `points` (per variant, request and clock the rounds' milliseconds and the peak memory), `confirm` (real runs),
        `split` (parts of a step), `workers` (versions), `skipped` (what was left out, and why).
    """
    started = time.perf_counter()
    data: dict[str, Any] = {"points": [], "confirm": [], "split": [], "workers": {}, "skipped": []}
    measure = Measure(plan, {}, data, started + limit_s, say)
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name), config, dtype)
        try:
            for variant in variants:
                python, why = kvpress() if variant == KVPRESS else (Path(sys.executable), "")
                if python is None:
                    measure.skip(why, variant=variant)
                else:
                    measure.start(variant, python, Path(name), dtype, threads)
            measure.machine()
            for batch in plan.batches:
                measure.batch(batch)
                measure.machine()
                if batch == plan.confirm_batch and plan.confirm_tokens:
                    measure.confirm()
        finally:
            for worker in measure.workers.values():
                worker.close()
    data["seconds"] = round(time.perf_counter() - started, 1)
    return data
