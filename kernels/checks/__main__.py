"""`python -m kvrepro.kernels.checks [STEM ...]`: one JSON list of results; exit code 1 if any case fails."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import torch

from . import STEMS, run


def main(stems: list[str]) -> int:
    """Run the named kernels, all without names."""
    torch.set_num_threads(1)
    on_gpu = torch.cuda.is_available()
    results = [r for stem in stems or STEMS for r in run(stem, "cuda" if on_gpu else "cpu", "triton", large=on_gpu)]
    print(json.dumps([asdict(r) | {"ok": r.ok} for r in results]))
    return 0 if all(r.ok for r in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
