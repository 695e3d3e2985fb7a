"""Memory and memory bandwidth of GPUs, from their makers' data sheets: what a bound is computed from."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import check_known

GB = 10**9


@dataclass(frozen=True)
class Machine:
    """What a cell runs on. `bandwidth` in bytes a second, None where no data sheet says."""

    name: str
    memory_bytes: int
    bandwidth: float | None


# name: (memory in GB, GB a second); nominal sizes: what a driver leaves free is a little less, which the reserve covers
_DATA_SHEETS = {
    "b200": (180, 8000),
    "h200": (141, 4800),
    "h100": (80, 3350),
    "h100-pcie": (80, 2000),
    "a100-80g": (80, 2039),
    "a100-40g": (40, 1555),
    "l40s": (48, 864),
    "a6000": (48, 768),
    "a10g": (24, 600),
    "rtx4090": (24, 1008),
    "rtx3090": (24, 936),
    "t4": (16, 320),
}
GPUS = {name: Machine(name, memory * GB, speed * GB) for name, (memory, speed) in _DATA_SHEETS.items()}


def machine(name: str | None) -> Machine:
    """A GPU by name; None is what this machine has: its first GPU, else its main memory.

    Raises:
        UnknownNameError: no such GPU in the table.
    """
    if name is not None:
        check_known("gpu", GPUS, name)
        return GPUS[name]
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return Machine(found.name, found.total_memory, None)
    import psutil

    return Machine("this machine's CPU", psutil.virtual_memory().total, None)
