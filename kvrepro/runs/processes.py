"""Child processes that end with this one: when a signal stops it, and when it is killed outright.

`python -m kvrepro.runs.processes PARENT_PID MODULE [ARGUMENT ...]` runs a module that ends with its parent: one that is
killed, for lack of memory for example, cannot end its children, so they watch for it.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

# one thread per cell: the grid runs as many cells side by side as there are cores
CELL_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    # nobody debugs a cell, so what a debugger would miss of Python's own modules is no news
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # those that this system has
GRACE_S = 1.0  # what processes get to end by themselves
UNWIND_S = 3.0  # what this process gets to end its own clean-up
POLL_S = 1.0
_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class Stopped(KeyboardInterrupt):
    """Raised in the main thread by a signal."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


# what a signal leaves to be done once nothing runs below, the last one first
_afterwards: list[Callable[[], object]] = []


@contextlib.contextmanager
def afterwards(action: Callable[[], object]) -> Iterator[None]:
    """Do this after the block, however it ends; where a signal ends it, once all processes below have ended."""
    _afterwards.append(action)
    try:
        yield
    except Stopped:
        raise
    except BaseException:
        _afterwards.remove(action)
        action()
        raise
    _afterwards.remove(action)
    action()


def _do_what_is_left() -> None:
    while _afterwards:
        _afterwards.pop()()


def _give_up(code: int) -> None:
    """End a process whose main thread does not come to its end."""
    _kill([])
    _do_what_is_left()
    os._exit(code)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside, a signal ends all processes below this one and raises `Stopped`; a second signal changes nothing.

    Outside the main thread signals cannot be handled, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    # what is ignored stays ignored: `nohup` means it
    before = {number: handler for number in known if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    watch: list[threading.Timer] = []

    def stop(number: int, frame: object) -> None:
        for handled in before:
            signal.signal(handled, signal.SIG_IGN)
        found = descendants()
        _each(found, "terminate")
        # a clean-up that waits for a child which does not end must not wait for ever
        watch.append(threading.Timer(GRACE_S, _kill, (found,)))
        watch.append(threading.Timer(UNWIND_S, _give_up, (128 + number,)))
        for timer in watch:
            timer.daemon = True
            timer.start()
        raise Stopped(number)

    for number in before:
        signal.signal(number, stop)
    try:
        yield
    except Stopped:
        end_descendants()
        for timer in watch:
            timer.cancel()
        _do_what_is_left()
        raise
    finally:
        for timer in watch:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def descendants() -> list[psutil.Process]:
    """Children, their children and so on that run, parents first; none without psutil, as `gpu-check` allows."""
    try:
        import psutil
    except ImportError:
        return []
    # one that has ended and that nobody has asked for yet is in the table still
    return [process for process in psutil.Process().children(recursive=True) if _runs(process)]


def end_descendants(grace_s: float = GRACE_S) -> None:
    """Ask every process below this one to end, then kill those that are left after the grace."""
    found = descendants()
    # parents are asked first: a child that is gone before its parent knows would look like a failure to it
    _each(found, "terminate")
    _wait(found, grace_s)
    _kill(found)
    _wait(found, GRACE_S)


def _wait(processes: list[psutil.Process], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while any(map(_runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)


def _runs(process: psutil.Process) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        # one that has ended stays in the table until its parent, or whoever took its place, asks for it
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _kill(processes: list[psutil.Process]) -> None:
    # one that was started meanwhile is below this process or below one of those
    _each([*processes, *descendants()], "kill")


def _each(processes: list[psutil.Process], action: str) -> None:
    for process in processes:
        if _runs(process):
            getattr(process, action)()


def child_command(module: str, *arguments: str, python: str = sys.executable) -> list[str]:
    """Command line that runs a module in a child of this process."""
    return [python, "-m", "kvrepro.runs.processes", str(os.getpid()), module, *arguments]


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


def run_module(module: str, arguments: list[str]) -> None:
    """Run a module as `python -m` would."""
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def main() -> None:
    """Tie this process to its parent, then run the module."""
    parent, module, *arguments = sys.argv[1:]
    end_with(int(parent))
    run_module(module, arguments)


if __name__ == "__main__":
    main()
