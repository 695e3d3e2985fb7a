"""One variant in a process of its own, so that its peak memory is its own: JSON requests in, JSON answers out.

`python -m kvrepro.bench.worker VARIANT MODEL_FOLDER DTYPE THREADS`; also run by the Python of kvpress'
environment, so only what that environment has is imported here.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from typing import Any

from .clock import Laps, peak_rss_bytes, reset_peak_rss
from .settings import GENERATE, KVPRESS, OURS, REFERENCE


class Worker:
    """Answers requests for one variant and one model."""

    def __init__(self, variant: str, folder: str, dtype: str, threads: int):
        import torch
        import transformers

        torch.set_num_threads(threads)
        torch.manual_seed(0)
        transformers.logging.set_verbosity_error()
        self.variant = variant
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        with torch.inference_mode():
            logits = self.model(torch.arange(1, 17)[None]).logits[0, -1].float()
        self.hello = {
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "threads": torch.get_num_threads(), "fingerprint": [float(x) for x in logits[:8]],
        }  # fmt: skip
        if variant in OURS:
            from ..engine.decoders.choose import make_decoder

            self.hello["decoder"] = make_decoder(self.model, OURS[variant][1]).name
        if variant == KVPRESS:
            from importlib.metadata import version

            self.hello["versions"]["kvpress"] = version("kvpress")

    def loop(self, budget: int | None, evict_every: int, capacity: int) -> Any:
        """The loop of this variant under a budget."""
        if self.variant in OURS:
            from .step_timer import OurEngine

            method, decoder = OURS[self.variant]
            return OurEngine(self.model, method, budget, evict_every, capacity, decoder)
        from . import baselines

        kinds = {GENERATE: "Generate", REFERENCE: "ReferenceLoop", KVPRESS: "KvpressLoop"}
        return getattr(baselines, kinds[self.variant])(self.model, budget, evict_every)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """`op` is `steps`, `eviction`, `reply`, `split` or `machine`."""
        if request["op"] == "machine":
            return machine_rates(self.model.dtype)
        rows, op = request["rows"], request["op"]
        loop = self.loop(request.get("budget"), request.get("evict_every", 128), request.get("capacity", 0))
        _release()
        is_own_peak = reset_peak_rss()
        if op == "steps":
            seen = {"seen": request["seen"]} if request.get("seen") else {}
            laps, held = loop.stretch(rows, request["length"], request["steps"], request["warm_up"], **seen)
            held = held if isinstance(held, int) else held.kv_bytes
            found: dict[str, Any] = {**laps.medians(), "kv_bytes": held}
        elif op == "eviction":
            laps: Laps = loop.eviction(rows, request["repeats"])
            found = laps.medians()
        elif op == "reply":
            wall, cpu = loop.reply(rows, request["prompt"], request["new_tokens"])
            found = {"wall": 1e3 * wall, "cpu": 1e3 * cpu}
        elif op == "split":
            found = {"parts": loop.split(rows, request["length"], request["steps"], request["clock"])}
        else:
            raise ValueError(f"op={op!r}: known are steps, eviction, reply, split, machine")
        return {**found, "peak_rss_bytes": peak_rss_bytes(), "is_own_peak": is_own_peak}


def machine_rates(dtype: Any, mib: int = 128, size: int = 1024) -> dict[str, float]:
    """Bytes a second of a copy (read and write counted) and of a sum, operations of a product; by either clock."""
    import torch

    source, square = torch.ones(mib * 2**20, dtype=torch.int8), torch.ones(size, size, dtype=dtype)
    target, found = torch.empty_like(source), {}
    for name, work, amount in (
        ("copy_bytes_per_s", lambda: target.copy_(source), 2 * mib * 2**20),
        ("read_bytes_per_s", source.view(torch.float32).sum, mib * 2**20),
        ("flops", lambda: square @ square, 2 * size**3),
    ):
        laps = Laps()
        for _ in range(6):
            laps.start()
            work()
            laps.lap()
        for clock, values in (("wall", laps.wall), ("cpu", laps.cpu)):
            # the best of a few: what the machine can do
            found[f"{name}_{clock}"] = amount / (min(values[1:]) / 1e3)
    return found


def _release() -> None:
    """Give freed memory back, or the next peak would hold the last cache."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        return


def main(arguments: list[str]) -> None:
    """Serve until the input ends."""
    # only answers go to the real output; what libraries print must not get between them
    answers, sys.stdout = sys.stdout, sys.stderr
    variant, folder, dtype, threads = arguments
    worker = Worker(variant, folder, dtype, int(threads))
    print(json.dumps(worker.hello), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
