"""Which GPUs of this host a run takes: one run per device, where several share a list of devices.

Devices keep the names that CUDA knows: numbers, UUIDs, MIG names. HIP, which torch calls CUDA too, reads the same
variables. The locks are the user's, on a disk of this host, and end with their process: a run of another user, or in a
container with a `/tmp` of its own, is not seen.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from ..errors import KvreproError
from ..holders import Holder
from ..paths import is_counted_by_bus, listed_gpus, only_gpus, private_folder, visible_gpus

POLL_S = 0.5
_NAME = re.compile(r"\d+|(GPU|MIG)-.+")


def host_gpus() -> list[str]:
    """Names of the devices that a grid may hand out here: of `KVREPRO_GPUS`, of what CUDA may see, or all there are.

    Counting starts no CUDA where the driver's NVML (AMD's SMI) is installed, as it is with every driver.
    """
    if named := listed_gpus():
        return named
    if (visible := visible_gpus()) is not None:
        # as CUDA reads it: the first name that is none, such as -1, ends the list
        return list(takewhile(_NAME.fullmatch, visible))
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


@contextlib.contextmanager
def claimed_gpus(n: int = 1) -> Iterator[list[str]]:
    """Hold `n` devices of `KVREPRO_GPUS` inside the block: no other run has them, and children see no others.

    Where the variable is unset nothing is held, and what a scheduler made visible stays so. Waits until `n` are free.

    Raises:
        KvreproError: `n` is more than there are, or the folder of the locks is not this user's alone.
    """
    names = listed_gpus()
    if not names or n < 1:
        yield []
        return
    uuids = _uuids()
    devices = {_device(name, uuids): name for name in names}
    if n > len(devices):
        raise KvreproError(
            f"{n} GPUs are needed, KVREPRO_GPUS={','.join(names)} has {len(devices)}: name more, or ask for fewer"
        )
    with _locks(devices, n) as held, only_gpus([devices[device] for device in held]):
        yield [devices[device] for device in held]


@contextlib.contextmanager
def _locks(devices: dict[str, str], n: int) -> Iterator[list[str]]:
    folder = private_folder() / "gpus"
    folder.mkdir(exist_ok=True)
    is_told = False
    with contextlib.ExitStack() as stack:
        while not (held := _take(folder, list(devices), n, stack)):
            if not is_told:
                holders = {note.read_text() for device in devices if (note := _note(folder, device)).exists()}
                listed = f"{', '.join(devices.values())}: other runs have them, last {' and '.join(sorted(holders))}"
                print(f"waiting for {n} of the GPUs {listed}", file=sys.stderr, flush=True)
                is_told = True
            time.sleep(POLL_S)
        yield held


def _take(folder: Path, devices: list[str], n: int, stack: contextlib.ExitStack) -> list[str]:
    """Lock `n` devices until the stack ends, or none: two runs with one device each would wait for each other."""
    # one run looks at a time, or two would see each other's first device and both give up, again and again
    with contextlib.ExitStack() as taken, FileLock(folder / "looking"):
        held: list[str] = []
        for device in devices:
            if len(held) == n:
                break
            with contextlib.suppress(Timeout):
                taken.enter_context(FileLock(folder / quote(device, safe="")).acquire(timeout=0))
                held.append(device)
        if len(held) == n:
            stack.enter_context(taken.pop_all())
            for device in held:
                _note(folder, device).write_text(str(Holder.here()))
            return held
    return []


def _note(folder: Path, device: str) -> Path:
    """Who took the device last; not in its lock, which is emptied by all who try it."""
    return folder / f"{quote(device, safe='')}.by"


def _uuids() -> dict[str, str]:
    """UUID of each NVIDIA device of this host by UUID, and by number where that is certain; empty where none can tell.

    `nvidia-smi` counts devices by their bus. CUDA does so where it is told to (`CUDA_DEVICE_ORDER=PCI_BUS_ID`), and is
    taken to where all are alike; else a number means a device that only CUDA knows, and is locked as a number.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [line.split(", ", 2) for line in done.stdout.splitlines() if line.count(", ") >= 2 and done.returncode == 0]
    found = {uuid: uuid for _, uuid, _ in rows}
    if is_counted_by_bus() or len({model for _, _, model in rows}) == 1:
        found |= {number: uuid for number, uuid, _ in rows}
    return found


def _device(name: str, uuids: dict[str, str]) -> str:
    """The device's UUID where it is known, so that a device with two names has one lock; else its name."""
    # CUDA takes the beginning of a UUID too
    return uuids.get(name) or next((uuid for uuid in uuids if not name.isdigit() and uuid.startswith(name)), name)
