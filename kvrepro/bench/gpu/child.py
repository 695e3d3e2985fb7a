"""One process of `gpu-check`, started by `supervisor`: `python -m kvrepro.bench.gpu.child MODULE:FUNCTION`.

What it is to do comes as a line of JSON on its standard input, once it may touch the device.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from .plan import Settings
from .rows import Rows
from .sizes import FULL, SMALL, Sizes


@dataclass(frozen=True)
class Task:
    """What a work is given.

    Attributes:
        name: the unit's: a model, a kernel.
        known: what earlier parts found: `copy_bytes_per_s`, and `passed`, the kernels whose checks all passed.
    """

    name: str
    rows: Rows
    settings: Settings
    known: dict[str, Any]

    @property
    def sizes(self) -> Sizes:
        """What is measured."""
        return SMALL if self.settings.small else FULL

    @property
    def on_gpu(self) -> bool:
        """Whether steps are captured and kernels are Triton's."""
        return self.settings.device.startswith("cuda")


def main() -> None:
    """Load the work that the argument names, wait for its turn, run it."""
    module, _, function = sys.argv[1].partition(":")
    work = getattr(import_module(module), function)
    told = sys.stdin.readline()
    if not told:
        # the turn never came
        return
    given = json.loads(told)
    settings = Settings(**given["settings"])
    rows = Rows(Path(given["file"]), given["until"], settings.device, given["start_at"])
    work(Task(given["name"], rows, settings, given["known"]))


if __name__ == "__main__":
    main()
