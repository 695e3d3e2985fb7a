"""Where a number comes from: versions, code revision and hardware, for the manifest."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..paths import PACKAGE, project_root, visible_gpus

PACKAGES = ("kvrepro", "torch", "transformers", "triton", "numpy", "papermill", "math-verify")


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that can change a number; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


@cache
def git_revision() -> str | None:
    """Commit of the project's checkout, `+dirty` when tracked files differ; None outside a checkout.

    As it was when this process, or the one that it was forked from, asked first: so it is that of the loaded code.
    """
    root = project_root()
    # a package that was installed into somebody's repository is not what that repository's commit says
    if root.is_relative_to(PACKAGE):
        return None
    describe = ["describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+dirty"]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *describe], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def hardware(device: str) -> dict[str, Any]:
    """Processor, cores, memory and GPU."""
    import psutil
    import torch

    found: dict[str, Any] = {
        "device": device,
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # of those that this process may see; None where nobody chose
        "visible_gpus": visible_gpus(),
        "memory_bytes": psutil.virtual_memory().total,
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return found


def provenance(device: str) -> dict[str, Any]:
    """All three, as a manifest holds them."""
    return {"versions": package_versions(), "git": git_revision(), "hardware": hardware(device)}


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "unknown")
    except OSError:
        return platform.processor() or "unknown"
