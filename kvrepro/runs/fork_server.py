"""The fork server of a grid: a process that has loaded what cells load, and is forked for every cell and every kernel.

Loading torch, transformers, Jupyter and matplotlib takes longer than a small cell decodes. Forks are asked for by their
stand-ins (`stand_in`) and belong to these, not to the server: where it ends, what runs goes on, and what comes later
starts by itself. Linux only.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

from ..paths import fork_server_environment
from .processes import CELL_ENVIRONMENT, child_command, run_module
from .provenance import git_revision
from .stand_in import is_own

# what cells load of other packages
LOADED = ("papermill", "ipykernel.kernelapp", "matplotlib.pyplot", "pandas", "seaborn")
# what libraries read when they are loaded
_ENVIRONMENT = {
    # what ipykernel would set before a notebook imports matplotlib
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    # pyarrow's allocator would start a thread
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # whoever asks for a GPU must not start CUDA, which no fork can use
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
_WAITING = 128  # forks that may be asked for while it loads


@contextlib.contextmanager
def fork_server(log: Path) -> Iterator[dict[str, str]]:
    """Environment of the processes that may ask a new server for forks; it ends with the block, or with this process.

    Args:
        log: what the server itself writes.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out, socket.socket(socket.AF_UNIX) as listening:
        # an address without a file: nothing is left behind, and Linux chooses one that is free
        listening.bind("")
        address = listening.getsockname()[1:].decode()
        listening.listen(_WAITING)
        server = _start(listening, out)
    try:
        yield {**os.environ, **fork_server_environment(address)}
    finally:
        server.kill()
        server.wait()


def _start(listening: socket.socket, log: IO[str]) -> subprocess.Popen[bytes]:
    environment = {**CELL_ENVIRONMENT, **_ENVIRONMENT, **os.environ}
    command = child_command("kvrepro.runs.fork_server", str(listening.fileno()))
    files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
    kept = {"pass_fds": [listening.fileno()], "start_new_session": True}
    return subprocess.Popen(command, env=environment, **files, **kept)


def serve(listening: socket.socket) -> tuple[str, list[str], int]:
    """Fork for everyone who asks; returns in the forks only: module, arguments, and where the exit code is written."""
    forks: dict[int, socket.socket] = {}

    def report(number: int, frame: object) -> None:
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = found
                # where nobody listens any more, it has ended for that
                with forks.pop(pid) as connection, contextlib.suppress(OSError):
                    connection.sendall(_ending(os.waitstatus_to_exitcode(status)))

    signal.signal(signal.SIGCHLD, report)
    # pages that the collector never looks at stay shared
    gc.freeze()
    while True:
        connection, _ = listening.accept()
        # a fork that ends at once must be known before it is looked for
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        if (pid := _fork_for(connection)) == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        elif pid is None:
            connection.close()
        else:
            forks[pid] = connection
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        if pid == 0:
            for other in (listening, *forks.values()):
                other.close()
            return become(connection)


def _ending(code: int) -> bytes:
    """The last line that a stand-in reads: the exit code, below zero the signal that ended the fork."""
    return f"ended {code}\n".encode()


def _fork_for(connection: socket.socket) -> int | None:
    """0 in the fork, its pid here; None where there is none, for lack of memory: whoever asked starts by itself."""
    try:
        return os.fork() if is_own(connection) else None
    except OSError:
        return None


def become(connection: socket.socket) -> tuple[str, list[str], int]:
    """Take the place of whoever asks: their files, environment and folder; the fork ends when they do."""
    os.setsid()
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as sent:
        request = json.loads(sent.readline())
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if not sys.flags.safe_path:
        sys.path[0] = request["folder"]
    own = connection.detach()
    end_with_peer(own)
    if _is_cuda_started():
        os._exit(1)
    # they would all draw the same; Python's own generator sees to itself
    sys.modules["torch"].default_generator.seed()
    sys.modules["numpy"].random.seed()
    os.write(own, f"{os.getpid()}\n".encode())
    return request["module"], request["arguments"], own


def end_with_peer(connection: int) -> None:
    """Have Linux kill this process, whatever it computes, when the other end of the connection is gone."""
    import fcntl

    fcntl.fcntl(connection, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(connection, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(connection, fcntl.F_SETFL, fcntl.fcntl(connection, fcntl.F_GETFL) | os.O_ASYNC)
    ended = select.poll()
    ended.register(connection, select.POLLHUP)
    if ended.poll(0):
        # it was gone before this process could ask
        os._exit(1)


def _is_cuda_started() -> bool:
    """Has the server asked CUDA for its devices? Its forks would find none, and quietly decode on the CPU."""
    return sys.modules["torch"].cuda._is_in_bad_fork()


def own_modules() -> list[str]:
    """Names of this package's modules, but for those that run on import and the kernels that no method has loaded."""
    package, kernels = sys.modules["kvrepro"], "kvrepro.kernels"
    names = [found.name for found in pkgutil.walk_packages(package.__path__, "kvrepro.")]
    return [name for name in names if not name.endswith("__main__") and not name.startswith(kernels)]


def load() -> None:
    """Import what cells import, and all of this package: whatever changes on disk later, forks run one revision of it.

    Raises:
        SystemExit: this process has threads now, which forks would lack.
    """
    for module in (*LOADED, *own_modules()):
        importlib.import_module(module)
    # of the code that was loaded now
    git_revision()
    # what pandas would have found in a kernel, which is no terminal
    sys.modules["pandas"].set_option("display.max_columns", 20)
    if len(os.listdir("/proc/self/task")) > 1:
        named = [thread.name for thread in threading.enumerate()]
        sys.exit(f"threads beside {', '.join(named)}, of OMP_NUM_THREADS for example: every cell starts by itself")


def run_and_exit(module: str, arguments: list[str], report: int) -> NoReturn:
    """Run the module and end as Python does, with the exit code in `report`.

    But for what C++ libraries say when they are unloaded: nanobind lists all that was loaded before the fork.
    """
    code = 1
    faulthandler.enable()
    try:
        run_module(module, arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and code is not end.code:
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.write(report, _ending(code))
    os._exit(code)


def main() -> None:
    """Load, then fork; the forks run what they are asked for."""
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        load()
        module, arguments, report = serve(listening)
    run_and_exit(module, arguments, report)


if __name__ == "__main__":
    main()
