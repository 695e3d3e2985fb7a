"""A SLURM cluster of this machine alone, on loopback, with fake GPUs and no accounting: `cluster.py start|stop|status`.

All of it lies in a temporary folder but slurm.conf and gres.conf: they are in /etc/slurm, where jobs and other shells
find them. A configuration that it did not write it leaves alone. It needs Linux, root, and SLURM or Debian's apt-get.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")
MADE_BY = "# written by kvrepro's tests/slurm/cluster.py, folder "
PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun")
DAEMONS = PROGRAMS[:3]  # in the order in which they start
LIMIT_S = 30  # what is not there by then does not come
MEMORY_MB = 16000


class ClusterError(Exception):
    """The cluster cannot be started; one line with what is missing."""


def folder() -> Path | None:
    """Where the cluster that this script configured lives; None where there is none."""
    config = ETC / "slurm.conf"
    first = config.read_text().partition("\n")[0] if config.is_file() else ""
    return Path(first.removeprefix(MADE_BY)) if first.startswith(MADE_BY) else None


def start(gpus: int = 2, cores: int = 2) -> Path:
    """Install what is missing, start the daemons and wait until the node is idle.

    Args:
        gpus: fake devices of the node; 0 makes a cluster that knows no GPUs.

    Returns:
        Folder with logs, pid files and state.

    Raises:
        ClusterError: it cannot run here, or a daemon did not come up; then nothing of it is left running.
    """
    _check_machine()
    _install()
    stop()  # what a killed start left
    home = Path(tempfile.mkdtemp(prefix="kvrepro-slurm-"))
    home.chmod(0o755)  # munge wants a socket that everybody can reach
    try:
        _configure(home, gpus, cores)
        _start_munge(home)
        start_controller(home)
        _run_daemon(home, "slurmd", "-N", _host(), "-L", f"{home}/slurmd.log")
        _wait(home, "slurmd", "an idle node", lambda: _said("sinfo", "--noheader", "--format=%T").strip() == "idle")
        _check_loopback(home)
    except BaseException:
        stop()
        raise
    return home


def start_controller(home: Path) -> None:
    """Start slurmctld; one that was killed knows its jobs again."""
    _run_daemon(home, "slurmctld", "-L", f"{home}/slurmctld.log")
    _wait(home, "slurmctld", "answer of slurmctld", lambda: "is UP" in _said("scontrol", "ping"))


def stop() -> None:
    """Cancel its jobs, end its daemons and take away what `start` wrote; where nothing runs it does nothing."""
    home = folder()
    if home is None:
        return
    if pid(home, "slurmd"):
        # only the controller ends jobs and all of their processes
        with contextlib.suppress(ClusterError):
            if not pid(home, "slurmctld"):
                start_controller(home)
            _end_jobs()
    for name in reversed(DAEMONS):
        _end(home, name)
    for name in ("gres.conf", "slurm.conf"):
        (ETC / name).unlink(missing_ok=True)
    shutil.rmtree(home, ignore_errors=True)


def pid(home: Path, name: str) -> int | None:
    """Process id of a daemon of this cluster; None where it does not run."""
    try:
        found = psutil.Process(int((home / f"{name}.pid").read_text()))
        # the number may belong to another process by now
        return found.pid if found.name() == name and any(str(home) in part for part in found.cmdline()) else None
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None


def _check_machine() -> None:
    home = folder()
    if home and any(pid(home, name) for name in DAEMONS):
        raise ClusterError(f"it runs already, in {home}: `cluster.py stop` ends it")
    if not sys.platform.startswith("linux") or os.geteuid():
        raise ClusterError(f"a SLURM of one machine needs Linux and root, for it writes to {ETC}")
    foreign = [name for name in ("slurm.conf", "gres.conf") if (ETC / name).exists()]
    if foreign and home is None:
        raise ClusterError(f"{ETC / foreign[0]} is of another SLURM and stays as it is: use a machine without one")
    name = socket.gethostname()
    address = socket.gethostbyname(name)
    if not address.startswith("127."):
        raise ClusterError(
            f"SLURM listens where its host's name leads to: {name} is {address}, and must be loopback:"
            f" begin /etc/hosts with the line `127.0.0.1 {name}`"
        )


def _install() -> None:
    if all(map(shutil.which, PROGRAMS)):
        return
    if not shutil.which("apt-get"):
        raise ClusterError(f"there is no SLURM, and no apt-get to install it: install {' and '.join(PACKAGES)}")
    for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *PACKAGES]):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        ran = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise ClusterError(f"apt-get {' '.join(command)}: {(ran.stderr or ran.stdout).strip().splitlines()[-1]}")


def _configure(home: Path, gpus: int, cores: int) -> None:
    for name in ("state", "spool"):
        (home / name).mkdir()
    # SLURM counts device files, whatever is behind them: here what is behind /dev/null
    for device in range(gpus):
        os.mknod(home / f"fake{device}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    controller, node = _free_ports(2)
    settings = {
        "ClusterName": "kvrepro-test",
        "SlurmctldHost": f"{_host()}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmdPort": node,
        # to listen at the host's address, which is loopback, instead of at all of them
        "CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny",
        "SlurmUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={home}/munge.socket",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "ReturnToService": 2,
        "AccountingStorageType": "accounting_storage/none",
        "JobAcctGatherType": "jobacct_gather/none",
        "StateSaveLocation": f"{home}/state",
        "SlurmdSpoolDir": f"{home}/spool",
        "SlurmctldPidFile": f"{home}/slurmctld.pid",
        "SlurmdPidFile": f"{home}/slurmd.pid",
        **({"GresTypes": "gpu"} if gpus else {}),
    }
    lines = [f"{key}={value}" for key, value in settings.items()]
    lines += [
        f"NodeName={_host()} NodeAddr=127.0.0.1 CPUs={cores} Sockets=1 CoresPerSocket={cores} ThreadsPerCore=1"
        f" RealMemory={MEMORY_MB}{f' Gres=gpu:{gpus}' if gpus else ''} State=UNKNOWN",
        "PartitionName=main Nodes=ALL Default=YES State=UP",
    ]
    devices = f"NodeName={_host()} Name=gpu File={home}/fake[0-{gpus - 1}]\n" if gpus else ""
    ETC.mkdir(exist_ok=True)
    (ETC / "slurm.conf").write_text(f"{MADE_BY}{home}\n" + "\n".join(lines) + "\n")
    (ETC / "gres.conf").write_text(f"{MADE_BY}{home}\n{devices}")


def _start_munge(home: Path) -> None:
    key = home / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    files = [f"--{what}-file={home}/munged.{end}" for what, end in (("pid", "pid"), ("log", "log"), ("seed", "seed"))]
    _run_daemon(home, "munged", f"--key-file={key}", f"--socket={home}/munge.socket", *files)
    _wait(home, "munged", "munged", lambda: pid(home, "munged") is not None)


def _run_daemon(home: Path, name: str, *arguments: str) -> None:
    """Start a daemon, which goes to the background and writes its pid file."""
    with (home / f"{name}.out").open("w") as out:
        ran = subprocess.run(
            [name, *arguments], cwd=home, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=LIMIT_S, check=False
        )
    if ran.returncode:
        raise ClusterError(f"{name} did not start: {_last_words(home, name)}")


def _end_jobs() -> None:
    _said("scancel", f"--user={os.getuid()}")
    deadline = time.monotonic() + LIMIT_S
    while _said("squeue", "--noheader").strip() and time.monotonic() < deadline:
        time.sleep(0.2)


def _end(home: Path, name: str) -> None:
    found = pid(home, name)
    if found is None:
        return
    process = psutil.Process(found)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LIMIT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(LIMIT_S)


def _check_loopback(home: Path) -> None:
    for name in DAEMONS:
        for connection in psutil.Process(pid(home, name)).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN and not connection.laddr.ip.startswith("127."):
                raise ClusterError(f"{name} listens at {connection.laddr.ip}, which is not loopback")


def _wait(home: Path, name: str, what: str, is_there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_there():
        if time.monotonic() > deadline:
            raise ClusterError(f"no {what} after {LIMIT_S} s: {_last_words(home, name)}")
        time.sleep(0.1)


def _last_words(home: Path, name: str) -> str:
    """What a daemon said last; its log goes with the folder."""
    for path in (home / f"{name}.log", home / f"{name}.out"):
        if path.is_file() and (lines := path.read_text(errors="replace").strip().splitlines()):
            return lines[-1]
    return "it said nothing"


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False).stdout


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        taken = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in taken]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument("--gpus", type=int, default=2, help="fake GPUs of the node (default %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="cores of the node (default %(default)s)")
    args = parser.parse_args()
    try:
        if args.action == "start":
            print(f"runs, in {start(args.gpus, args.cores)}")
        elif args.action == "stop":
            stop()
            print("stopped")
        elif home := folder():
            print(f"{home}:", ", ".join(f"{name} {pid(home, name) or 'does not run'}" for name in DAEMONS))
        else:
            print("there is none")
    except ClusterError as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
