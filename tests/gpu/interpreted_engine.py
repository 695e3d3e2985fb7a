"""Runs of some methods on the pretend device whose kernels run in Triton's interpreter, against the CPU's.

`TRITON_INTERPRET=1 python -m tests.gpu.interpreted_engine METHOD...` prints what `test_interpreted_engine` checks, as
JSON: a process of its own, since the variable must be set before Triton is imported.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from .engine_runs import requests, run
from .pretend_cuda import PretendCuda

# each row evicts once
SIZES = dict(asked=requests((8, 10), samples=1), rows=2, budget=10, new_tokens=10)


def report(method: str) -> dict:
    """Whether the two runs agree, and what the second one launched."""
    home = run(method, **SIZES)
    with PretendCuda(interpret=True) as gpu:
        away = run(method, gpu=gpu, **SIZES)
    launched = {e.what for e in gpu.journal.counts if e.kind == "launch" and e.what.endswith("_kernel")}
    return {
        "equal": away.told() == home.told(),
        "evictions": away.stats.evictions,
        "captured": away.decoder.capture,
        "warnings": away.warnings,
        "launched": sorted(launched),
    }


if __name__ == "__main__":
    # the interpreter computes with numpy, which warns of every -inf
    np.seterr(all="ignore")
    print(json.dumps({method: report(method) for method in sys.argv[1:]}))
