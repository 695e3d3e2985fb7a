"""The process that asks a grid's fork server for a fork, and stands for it among its parent's children.

`python -m kvrepro.runs.stand_in PARENT_PID MODULE [ARGUMENT ...]` does what `processes` does, in a fork where all
is loaded already; without a server, which only a grid has, in this very process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import struct
import sys

from ..paths import fork_server_address
from .processes import SIGNALS, end_with, run_module


def stand_in_command(module: str, *arguments: str) -> list[str]:
    """Command line that runs a module in a fork which ends with this process."""
    return [sys.executable, "-m", "kvrepro.runs.stand_in", str(os.getpid()), module, *arguments]


def run_forked(module: str, arguments: list[str]) -> int | None:
    """Run a module in a fork of the grid's server and return its exit code; None where no server answers.

    The fork has this process' files, environment and folder. Signals are passed on to it; it ends with this process.
    """
    if not (address := fork_server_address()):
        return None
    request = {"module": module, "arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(f"\0{address}")
            if not is_own(server):
                raise PermissionError("it is somebody else's")
            socket.send_fds(server, [b"0"], [0, 1, 2])
            server.sendall(json.dumps(request).encode() + b"\n")
            answers = server.makefile("rb")
            # a fork that cannot do it says nothing but that it has ended
            pid = int(said) if (said := answers.readline().strip()).isdigit() else 0
        except OSError as error:
            pid, reason = 0, str(error)
        else:
            reason = "it did not fork"
        if not pid:
            print(f"no fork server ({reason}): {module} starts by itself, which takes longer", file=sys.stderr)
            return None
        _pass_signals_on(pid)
        # the fork's own word, or the server's; none where the server has ended too, and the fork was killed
        said = answers.readline().split()
    code = int(said[1]) if said else -signal.SIGKILL
    return code if code >= 0 else 128 - code


def is_own(connection: socket.socket) -> bool:
    """Does the process at the other end belong to the same user? Addresses without a file can be taken by anyone."""
    packed = struct.Struct("3i")  # pid, user, group
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, packed.size)
    return packed.unpack(found)[1] == os.geteuid()


def _pass_signals_on(pid: int) -> None:
    def pass_on(number: int, frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    for name in SIGNALS:
        if signal.getsignal(number := getattr(signal, name)) != signal.SIG_IGN:
            signal.signal(number, pass_on)


def main() -> None:
    """Tie this process to its parent, then run the module, in a fork of the grid's server where there is one."""
    parent, module, *arguments = sys.argv[1:]
    end_with(int(parent))
    # a crash in compiled code says where
    faulthandler.enable()
    if (code := run_forked(module, arguments)) is not None:
        sys.exit(code)
    run_module(module, arguments)


if __name__ == "__main__":
    main()
