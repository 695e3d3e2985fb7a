"""kvpress in a virtual environment of its own, made when it is first needed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ..paths import kvpress_environment

CONSTRAINTS = Path(__file__).with_name("kvpress-constraints.txt")
READY, LIMIT_S = ".ready", 900.0


def is_ready(folder: Path | None = None) -> bool:
    """Whether the environment was installed from these very pins."""
    marker = (folder or kvpress_environment()) / READY
    return marker.is_file() and marker.read_text().strip() == _pins()


def python_of(folder: Path | None = None) -> Path:
    """The environment's interpreter."""
    return (folder or kvpress_environment()) / "bin" / "python"


def ensure(
    folder: Path | None = None, say: Callable[[str], None] = print, limit_s: float = LIMIT_S
) -> tuple[Path | None, str]:
    """Make the environment unless it is there.

    Returns:
        The interpreter and an empty text, or None and why there is no kvpress.
    """
    folder = folder or kvpress_environment()
    if is_ready(folder):
        return python_of(folder), ""
    say(f"making kvpress' environment in {folder} (once, some minutes)")
    torch_pin = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    options = ["--quiet", "--disable-pip-version-check", "--constraint", str(CONSTRAINTS)]
    install = [str(python_of(folder)), "-m", "pip", "install", *options, torch_pin, "kvpress"]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], install):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, f"kvpress' environment could not be made: {type(error).__name__} in {command[2]} {command[3]}"
        if done.returncode:
            lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
            why = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "no message")
            return None, f"kvpress could not be installed: {why.strip()[:300]}"
    (folder / READY).write_text(_pins() + "\n")
    return python_of(folder), ""


def _pins() -> str:
    return hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:16]
