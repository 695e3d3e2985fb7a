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


def is_ready(folder: Path) -> bool:
    """Whether the environment was installed from these very pins."""
    marker = folder / READY
    return marker.is_file() and marker.read_text().strip() == _pins()


def ensure(folder: Path | None = None, say: Callable[[str], None] = print) -> tuple[Path | None, str]:
    """Make the environment unless it is there.

    Returns:
        Its interpreter and an empty text, or None and why there is no kvpress.
    """
    folder = folder or kvpress_environment()
    python = folder / "bin" / "python"
    if is_ready(folder):
        return python, ""
    say(f"making kvpress' environment in {folder} (once, some minutes)")
    torch_pin = next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))
    options = ["--quiet", "--disable-pip-version-check", "--constraint", str(CONSTRAINTS)]
    install = [str(python), "-m", "pip", "install", *options, torch_pin, "kvpress"]
    for command in ([sys.executable, "-m", "venv", "--clear", str(folder)], install):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return None, f"kvpress' environment could not be made: {type(error).__name__} in {command[2]} {command[3]}"
        if done.returncode:
            lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["no message"]
            why = next((line for line in reversed(lines) if "ERROR" in line), lines[-1])
            return None, f"kvpress could not be installed: {why.strip()[:300]}"
    (folder / READY).write_text(_pins() + "\n")
    return python, ""


def _pins() -> str:
    return hashlib.sha256(CONSTRAINTS.read_bytes()).hexdigest()[:16]
