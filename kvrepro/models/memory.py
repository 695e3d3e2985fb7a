"""Bytes that a model, a batch and a step take, against the bytes that are free, before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..errors import KvreproError
from .shapes import model_size
from .table import ModelEntry

GIB = 1 << 30
# what torch, cuBLAS workspaces and the activations of one step take besides weights and cache
RESERVE_BYTES = {"cuda": 1 * GIB, "cpu": GIB // 4}
# of a row's step, in float32: its logits, the candidates that sampling sorts, and the sampler's copy
_LOGITS_COPIES = 3


def rows_that_fit(room: int, slot_bytes: int, capacity: int, vocabulary: int) -> int:
    """The largest batch: rows of `capacity` slots whose cache and logits fit into `room` bytes.

    `room`: what a device has left beside weights, head and reserve. `slot_bytes`: K and V of one token over all layers.
    """
    return max(0, room // row_bytes(slot_bytes, capacity, vocabulary))


def row_bytes(slot_bytes: int, capacity: int, vocabulary: int) -> int:
    """Of a row with `capacity` slots: its cache, and its logits in a step."""
    return slot_bytes * capacity + _LOGITS_COPIES * 4 * vocabulary


def step_bytes(weights_bytes: int, slot_bytes: int, rows: int, slots: float) -> float:
    """Bytes that a decode step must read: the weights once, and K and V of every row's slots (mean per row).

    Over a device's bandwidth this is the least time that a step can take. `weights_bytes` leaves out an embedding table
    that is not the head as well; `slot_bytes`: K and V of one token over all layers.
    """
    return weights_bytes + rows * slots * slot_bytes


def free_bytes(device: str, all_devices: bool = False) -> int:
    """Bytes that can still be allocated on a device; on all GPUs together with `all_devices`."""
    import torch

    if device.startswith("cuda"):
        numbers = range(torch.cuda.device_count()) if all_devices else [torch.device(device).index or 0]
        return sum(torch.cuda.mem_get_info(number)[0] for number in numbers)
    try:
        import psutil
    except ModuleNotFoundError:
        # `gpu-check` does without it
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return psutil.virtual_memory().available


def check_fits(entry: ModelEntry, device: str, cache_bytes: int = 0) -> None:
    """Compare weights and cache (with the method's head) with the memory that is free; too little is a
    `KvreproError`.
    """
    weights, kind = model_size(entry).weights_bytes, device.split(":")[0]
    needed = weights + cache_bytes + RESERVE_BYTES.get(kind, 0)
    free = free_bytes(device, entry.device_map == "auto")
    if needed > free:
        raise KvreproError(
            f"model {entry.name!r} needs {needed / GIB:.1f} GiB on {device} ({weights / GIB:.1f} weights, "
            f"{cache_bytes / GIB:.1f} KV cache and head, the rest for a step), {free / GIB:.1f} GiB are free. "
            f"What helps: {'; '.join(_remedies(entry, kind, cache_bytes))}"
        )


def _remedies(entry: ModelEntry, kind: str, cache_bytes: int) -> Iterator[str]:
    if cache_bytes:
        yield "lower batch_rows or the budget"
    if kind != "cuda":
        yield "a smaller model, or a machine with more memory"
        return
    if entry.device_map is None:
        yield "several GPUs: device_map: auto for this model in models.yaml"
    if entry.quantisation is None:
        yield "smaller weights: quantisation: 8bit or 4bit there"
    yield "a GPU with more memory (`kvrepro plan` lists what fits)"
