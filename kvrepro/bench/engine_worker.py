"""One variant of our engine in a process of its own: `python -m kvrepro.bench.engine_worker`, as `worker`."""

from __future__ import annotations

import sys
from typing import Any

from ..engine.decoders.choose import make_decoder
from ..engine.requests import Request
from .engine_loop import EngineLoop, bench_method, run_replies
from .settings import OURS
from .worker import Worker, serve


class EngineWorker(Worker):
    """Answers requests for one variant of our engine."""

    def __init__(self, variant: str, folder: str, dtype: str, threads: int):
        super().__init__(variant, folder, dtype, threads)
        self.hello["decoder"] = make_decoder(self.model, OURS[variant][1]).name

    def measure(self, request: dict[str, Any]) -> dict[str, Any]:
        """See `Worker`; `split` as well."""
        name, decoder = OURS[self.variant]
        rows, evict_every = request["rows"], request["evict_every"]
        method = bench_method(name, self.model, request["budget"], evict_every)
        if request["op"] == "reply":
            prompts = [Request(str(i), 0, (1,) * request["prompt"]) for i in range(rows)]
            return run_replies(self.model, method, prompts, request["new_tokens"], decoder=decoder)[0]
        loop = EngineLoop(self.model, method, rows, decoder=decoder)
        if request["op"] == "eviction":
            return loop.eviction(request["repeats"])
        if request["op"] == "split":
            return {"parts": loop.split(request["length"], request["steps"], request["clock"], evict_every)}
        return loop.stretch(request["length"], request["steps"], request["warm_up"], request.get("seen"))


if __name__ == "__main__":
    serve(EngineWorker, sys.argv[1:])
