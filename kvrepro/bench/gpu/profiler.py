"""The kernels of some decode steps, by name, as torch's profiler sees them on the device."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from ..engine_loop import EngineLoop
from .speed import which_step

MOST_KERNELS, NAME_CHARACTERS = 60, 160


def kernel_table(loop: EngineLoop, length: int, replays: int, warm_up: int) -> dict[str, Any]:
    """Name, launches per step, mean microseconds and share of every kernel of `replays` steps from `length` slots on.

    `busy_us` is the time of all kernels of a step, `span_us` that from a step's first kernel to the next step's: what
    lies between is a device that waits. Profiled steps are slower than others, which `span_us` includes.

    Raises:
        RuntimeError: the profiler saw no kernel.
    """
    on_gpu = loop.device.type == "cuda"
    loop.mean_step_ms(length, 1, warm_up)
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        for _ in range(replays):
            loop.engine.step(loop.state)
        loop.engine.read_all(loop.state)
        if on_gpu:
            torch.cuda.synchronize()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    events = [e for e in seen.events() if e.device_type == kind and not getattr(e, "is_user_annotation", False)]
    if not events:
        raise RuntimeError("the profiler saw no kernels on the device; it may lack the right to (CUPTI)")
    by_name: dict[str, list[float]] = defaultdict(list)
    for event in events:
        by_name[event.name[:NAME_CHARACTERS]].append(event.time_range.elapsed_us())
    busy = sum(map(sum, by_name.values()))
    span = max(e.time_range.end for e in events) - min(e.time_range.start for e in events)
    kernels = [
        dict(name=name, per_step=len(us) / replays, mean_us=sum(us) / len(us), share=sum(us) / busy)
        for name, us in sorted(by_name.items(), key=lambda item: -sum(item[1]))
    ]
    return dict(
        length=length,
        replays=replays,
        launches=len(events) / replays,
        busy_us=busy / replays,
        span_us=span / replays,
        kernels=kernels[:MOST_KERNELS],
        **which_step(loop.engine.decoder, loop.device),
    )
