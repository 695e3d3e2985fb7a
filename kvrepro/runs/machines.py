"""Memory and memory bandwidth of GPUs, from their makers' data sheets: what a bound is computed from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import KvreproError, check_known

GB = 10**9


@dataclass(frozen=True)
class Machine:
    """What a cell runs on. `memory_bytes` of one GPU or of a CPU; `bandwidth` in bytes a second, None where no data
    sheet says; `gpus`: how many there are, 0 is a CPU, None is as many as one asks for.
    """

    name: str
    memory_bytes: int
    bandwidth: float | None
    gpus: int | None = None

    @property
    def is_cpu(self) -> bool:
        """Whether cells run on a CPU here."""
        return self.gpus == 0


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


def machine(name: str | None, n_gpus: int | None = None) -> Machine:
    """A GPU by name; None is what this machine has: its first GPU, else its main memory.

    Args:
        n_gpus: so many of them; None for those that are there.

    Raises:
        UnknownNameError: no such GPU in the table.
        KvreproError: this machine has fewer, or fewer than one is asked for.
    """
    if n_gpus is not None and n_gpus < 1:
        raise KvreproError(f"--gpus {n_gpus}: must be at least 1")
    if name is not None:
        check_known("gpu", GPUS, name)
        return replace(GPUS[name], gpus=n_gpus)
    here = _this_machine()
    if n_gpus is not None and n_gpus > here.gpus:
        has = f"has {here.gpus} GPU{'s' if here.gpus > 1 else ''}" if here.gpus else "has no GPU"
        raise KvreproError(f"--gpus {n_gpus}: this machine {has}; to plan for another one name its GPU: --gpu h100")
    return here if n_gpus is None else replace(here, gpus=n_gpus)


def _this_machine() -> Machine:
    import torch

    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        return Machine(found.name, found.total_memory, None, torch.cuda.device_count())
    import psutil

    return Machine("this machine's CPU", psutil.virtual_memory().total, None, 0)
