"""A child process that ends with its parent: `python -m kvrepro.runs.child PARENT_PID MODULE [ARGUMENT ...]`.

A parent that is killed outright, for lack of memory for example, cannot end its children, so they watch for it.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

POLL_S = 1.0
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def child_command(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Command line that runs a module in a child of this process."""
    return [python, "-m", "kvrepro.runs.child", str(os.getpid()), module, *arguments]


def end_with(parent: int) -> None:
    """End this process when `parent`, which started it, has ended.

    At once and whatever it computes on Linux, within seconds on other systems with parent process ids that change;
    Windows has none, there children end with their pipes or go on.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if sys.platform != "win32" and os.getppid() != parent:
        # it ended before this process could ask
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)


def main() -> None:
    """Tie this process to its parent, then run the module as `python -m` would."""
    parent, module, *arguments = sys.argv[1:]
    end_with(int(parent))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
