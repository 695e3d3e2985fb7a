"""One baseline in a process of its own, so that its peak memory is its own: JSON requests in, JSON answers out.

`python -m kvrepro.bench.worker VARIANT MODEL_FOLDER DTYPE THREADS`; also run by the Python of kvpress'
environment, so only what that environment has is imported here. `engine_worker` is the same for our engine.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import torch
import transformers

from .baselines import LOOPS
from .laps import Laps, peak_rss_bytes, reset_peak_rss
from .settings import KVPRESS


class Worker:
    """Answers requests for one baseline and one model."""

    def __init__(self, variant: str, folder: str, dtype: str, threads: int):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        transformers.logging.set_verbosity_error()
        self.variant = variant
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        with torch.inference_mode():
            logits = self.model(torch.arange(1, 17)[None]).logits[0, -1].float()
        self.hello = {
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "threads": torch.get_num_threads(),
            "fingerprint": logits[:8].tolist(),
        }
        if variant == KVPRESS:
            self.hello["versions"]["kvpress"] = version("kvpress")

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """`op` is `steps`, `eviction`, `reply`, `split` or `machine`."""
        if request["op"] == "machine":
            return machine_rates(self.model.dtype)
        _release()
        is_own_peak = reset_peak_rss()
        return {**self.measure(request), "peak_rss_bytes": peak_rss_bytes(), "is_own_peak": is_own_peak}

    def measure(self, request: dict[str, Any]) -> dict[str, Any]:
        """What was asked for, milliseconds by either clock."""
        loop = LOOPS[self.variant](self.model, request["rows"], request["budget"], request["evict_every"])
        if request["op"] == "steps":
            return loop.stretch(request["length"], request["steps"], request["warm_up"])
        if request["op"] == "eviction":
            return loop.eviction(request["repeats"])
        return loop.reply(request["prompt"], request["new_tokens"])


def machine_rates(dtype: Any, mib: int = 128, size: int = 1024) -> dict[str, float]:
    """Bytes a second of a copy (read and write counted) and of a sum, operations of a product; by either clock."""
    source, square = torch.ones(mib * 2**20, dtype=torch.int8), torch.ones(size, size, dtype=dtype)
    target, found = torch.empty_like(source), {}
    for name, work, amount in (
        ("copy_bytes_per_s", lambda: target.copy_(source), 2 * mib * 2**20),
        ("read_bytes_per_s", source.view(torch.float32).sum, mib * 2**20),
        ("flops", lambda: square @ square, 2 * size**3),
    ):
        laps = Laps()
        for _ in range(6):
            work()
            laps.lap()
        # the best of a few after one that warms up: what the machine can do
        best = {"wall": min(laps.wall[1:]), "cpu": min(laps.cpu[1:])}
        found |= {f"{name}_{clock}": 1e3 * amount / ms for clock, ms in best.items()}
    return found


def _release() -> None:
    """Give freed memory back, or the next peak would hold the last cache."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def serve(kind: type[Worker], arguments: list[str]) -> None:
    """Answer until the input ends."""
    # only answers go to the real output; what libraries print must not get between them
    answers, sys.stdout = sys.stdout, sys.stderr
    variant, folder, dtype, threads = arguments
    worker = kind(variant, folder, dtype, int(threads))
    print(json.dumps(worker.hello), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve(Worker, sys.argv[1:])
