"""The kernel of a notebook: this very interpreter, started once more where it ends before it has answered.

It talks through sockets in a folder of this user's: nobody else can listen, and there are no ports to run out of.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zmq
from filelock import FileLock, Timeout
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from ..errors import RunError
from ..paths import private_folder
from .stand_in import stand_in_command

KERNEL = "python3"  # what executed notebooks say; no kernel of that name is looked up
START_LIMIT_S = 240  # a loaded machine takes its time
_TRANSPORT = "tcp" if sys.platform == "win32" else "ipc"
_CONNECTION = "k.json"
# what the path of a socket has below the user's folder: Jupyter adds `-ipc-` and a digit to the connection file's stem
_BELOW = "/kernels/12345678/k-ipc-5"


def kernel_command() -> list[str]:
    """What starts a kernel, in a grid by way of its fork server; Jupyter fills in the connection file."""
    # what libraries write when they crash goes to a file, and not to a thread of the process that has crashed
    arguments = "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.capture_fd_output=False"
    if sys.platform == "win32":
        return [sys.executable, "-m", *arguments]
    # it must not look for its parent itself: it ends with what is started here, whatever it computes
    return stand_in_command(*arguments, "--IPKernelApp.parent_handle=1")


class OwnKernelClient(AsyncKernelClient):
    """Waits for the kernel's first reply, and has it started once more where none comes: it has run no code yet."""

    async def wait_for_ready(self, timeout: float | None = None) -> None:
        """Wait.

        Raises:
            RunError: neither the first kernel nor the second one answered.
        """
        manager = self.parent
        try:
            await super().wait_for_ready(timeout)
        except RuntimeError:
            print(f"the kernel {manager.failure(timeout)}: it is started once more", file=sys.stderr)
        else:
            return
        await manager.restart_kernel(now=True)
        try:
            await super().wait_for_ready(timeout)
        except RuntimeError as error:
            raise RunError(f"no kernel starts; the second one {manager.failure(timeout)}") from error


class OwnKernelManager(AsyncKernelManager):
    """Starts `kernel_command()`; what the kernel writes past its notebook goes to `log_file`, its files to `folder`."""

    log_file: IO[str]
    folder: Path
    process: subprocess.Popen[bytes]
    began: int  # where in the log this kernel's lines begin

    def __init__(self, **kwargs: Any):
        own = {"connection_file": str(self.folder / _CONNECTION), "client_factory": OwnKernelClient}
        super().__init__(transport=_TRANSPORT, **own, **kwargs)

    @property
    def kernel_spec(self) -> KernelSpec:
        """Made here and never looked up, so a kernel of the same name elsewhere changes nothing."""
        return KernelSpec(argv=kernel_command(), display_name="Python 3", language="python", name=KERNEL)

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kwargs: Any) -> None:
        type(self).began = self.log_file.seek(0, os.SEEK_END)
        await super()._async_launch_kernel(kernel_cmd, **{**kwargs, "stdout": self.log_file, "stderr": self.log_file})
        # the one that has ended is forgotten by Jupyter, and nbclient keeps no manager
        type(self).process = self.provisioner.process

    @classmethod
    def failure(cls, waited_s: float | None = None) -> str:
        """How the kernel ended, or that it has said nothing for so long, and the last line that it wrote."""
        code = cls.process.poll()
        how = f"did not answer within {waited_s} s" if code is None else ending(code)
        cls.log_file.seek(cls.began)
        lines = [line.strip() for line in cls.log_file if line.strip()]
        # where a library crashes, Python adds a stack to what the library itself wrote
        crash = next((number for number, line in enumerate(lines) if line.startswith("Fatal Python error")), len(lines))
        return f"{how}; its last line: {(lines[:crash] or lines[crash : crash + 1] or ['none'])[-1]}"


def ending(code: int) -> str:
    """What a process' exit code says; its stand-in reports a signal as a shell does."""
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"ended with exit code {code}"
    return f"was killed by {name}{', often for lack of memory' if name == 'SIGKILL' else ''}"


@contextlib.contextmanager
def own_kernel() -> Iterator[dict[str, Any]]:
    """Arguments of papermill's `execute_notebook` that run the notebook in a kernel of ours.

    What the kernel itself writes is passed on to the error output afterwards.

    Raises:
        KvreproError: there is no folder of this user's alone for its sockets.
        RunError: no kernel answered within `START_LIMIT_S` seconds, or it died.
    """
    from nbclient.exceptions import DeadKernelError

    # what libraries in other languages write need not be UTF-8
    with _kernel_folder() as folder, tempfile.TemporaryFile("a+", encoding="utf-8", errors="replace") as log:
        manager = type("OneKernelManager", (OwnKernelManager,), {"log_file": log, "folder": folder})
        try:
            yield {"kernel_name": KERNEL, "kernel_manager_class": manager, "start_timeout": START_LIMIT_S}
        except DeadKernelError as error:
            raise RunError(f"the kernel {manager.failure()}") from error
        finally:
            # a full disk below the error output does not undo what the notebook has done
            with contextlib.suppress(OSError):
                log.seek(0)
                shutil.copyfileobj(log, sys.stderr)
                sys.stderr.flush()


@contextlib.contextmanager
def _kernel_folder() -> Iterator[Path]:
    """A new folder for the files of one kernel, gone after the block; those of processes that were killed go first."""
    longest = zmq.IPC_PATH_MAX_LEN - len(_BELOW) if _TRANSPORT == "ipc" else None
    kernels = private_folder(longest) / Path(_BELOW).parts[1]
    kernels.mkdir(exist_ok=True)
    # whoever has a folder holds the lock in it
    with FileLock(kernels / "looking"):
        for left in filter(Path.is_dir, kernels.iterdir()):
            # gone where its owner has just removed it
            with contextlib.suppress(Timeout, FileNotFoundError):
                FileLock(left / "lock").acquire(timeout=0).lock.release()
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="", dir=kernels))
        lock = FileLock(folder / "lock")
        lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
        # a kernel that was stopped may be removing its sockets too; what is left goes with the next start
        shutil.rmtree(folder, ignore_errors=True)
