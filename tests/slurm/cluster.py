"""A SLURM cluster of this machine alone, on loopback, with fake GPUs and without accounting: `cluster.py start|stop|status`.

Everything lies in a temporary folder but slurm.conf and gres.conf in /etc/slurm: the plugin drops SLURM_CONF inside jobs,
so their `srun` finds no other place. It never overwrites a configuration that it did not write.
"""

from __future__ import annotations

import argparse
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
CONFIGS = (ETC / "slurm.conf", ETC / "gres.conf")
MADE_BY = "# written by kvrepro's tests/slurm/cluster.py, folder "
PACKAGES = ("slurm-wlm", "munge")
DAEMONS = ("munged", "slurmctld", "slurmd")  # in the order they start
START_S = 30  # a daemon that is not up by then does not come
MEMORY_MB = 16000


class ClusterError(Exception):
    """The cluster cannot be started; says in one line what is missing."""


def folder() -> Path | None:
    """Where the cluster that this script configured lives, None where there is none."""
    if not CONFIGS[0].is_file():
        return None
    first = CONFIGS[0].read_text().partition("\n")[0]
    return Path(first.removeprefix(MADE_BY)) if first.startswith(MADE_BY) else None


def start(gpus: int = 2, cores: int = 2) -> Path:
    """Install what is missing, start the three daemons and wait until the node is idle.

    Args:
        gpus: fake devices of the node; 0 makes a cluster that knows no GPUs.

    Returns:
        Folder with logs, pid files and state.

    Raises:
        ClusterError: it cannot run here, or a daemon did not come up; nothing is left running.
    """
    stop()
    _check_host()
    _install()
    home = Path(tempfile.mkdtemp(prefix="kvrepro-slurm-"))
    home.chmod(0o755)  # munge wants a socket that everybody may reach
    try:
        _configure(home, gpus, cores)
        _start_munge(home)
        start_controller(home)
        _run_daemon(home, "slurmd", "-N", _host(), "-L", str(home / "slurmd.log"))
        _wait(lambda: _said("sinfo", "--noheader", "--format=%T").strip() == "idle", home, "an idle node")
        _check_loopback(home)
    except BaseException:
        stop(keep_logs=True)
        raise
    return home


def start_controller(home: Path) -> None:
    """Start slurmctld, which knows again what it knew when it was killed."""
    _run_daemon(home, "slurmctld", "-L", str(home / "slurmctld.log"))
    _wait(lambda: "is UP" in _said("scontrol", "ping"), home, "slurmctld")


def stop(*, keep_logs: bool = False) -> None:
    """Cancel every job, end the daemons by their pid files and remove what `start` wrote; nothing to do is fine."""
    home = folder()
    if home is None:
        return
    if pid(home, "slurmctld"):
        subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=START_S, check=False)
        with_steps = time.monotonic() + 10
        while time.monotonic() < with_steps and _said("squeue", "--noheader").strip():
            time.sleep(0.2)
    for name in reversed(DAEMONS):
        _end(home, name)
    for path in CONFIGS:
        if path.is_file() and path.read_text().startswith(MADE_BY):
            path.unlink()
    if not keep_logs:
        shutil.rmtree(home, ignore_errors=True)


def pid(home: Path, name: str) -> int | None:
    """Process id of a daemon of this cluster, None where it does not run."""
    try:
        found = psutil.Process(int((home / f"{name}.pid").read_text()))
        return found.pid if found.name() == name else None
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None


def _check_host() -> None:
    if not sys.platform.startswith("linux") or os.geteuid():
        raise ClusterError(f"a one-machine SLURM needs Linux and root (for {ETC}); this is user {os.geteuid()}")
    if CONFIGS[0].exists():
        raise ClusterError(f"{CONFIGS[0]} is of another SLURM, which stays as it is: run this on a machine without one")
    address = socket.gethostbyname(socket.gethostname())
    if not address.startswith("127."):
        raise ClusterError(
            f"this host, {socket.gethostname()}, is {address}, and the test cluster listens on loopback only:"
            f" begin /etc/hosts with the line '127.0.0.1 {socket.gethostname()}'"
        )


def _install() -> None:
    if all(shutil.which(name) for name in (*DAEMONS, "srun", "sbatch")):
        return
    if not shutil.which("apt-get"):
        raise ClusterError(f"SLURM is not installed and there is no apt-get: install {' and '.join(PACKAGES)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", *PACKAGES]):
        ran = subprocess.run(["apt-get", *command], env=environment, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise ClusterError(f"apt-get {' '.join(command)} failed: {(ran.stderr or ran.stdout).strip()[-300:]}")


def _configure(home: Path, gpus: int, cores: int) -> None:
    for name in ("state", "spool"):
        (home / name).mkdir()
    head = f"{MADE_BY}{home}\n"
    ETC.mkdir(exist_ok=True)
    gres = ""
    if gpus:
        for device in range(gpus):
            # SLURM counts device files only, whatever is behind them: here what is behind /dev/null
            os.mknod(home / f"fake{device}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        gres = f"NodeName={_host()} Name=gpu File={home}/fake[0-{gpus - 1}]\n"
    controller, node = _free_ports(2)
    settings = {
        "ClusterName": "kvrepro-test",
        "SlurmctldHost": f"{_host()}(127.0.0.1)",
        "SlurmctldPort": controller,
        "SlurmdPort": node,
        # binds to the host's address, which is loopback, instead of to all
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
        # `squeue` is asked for the state of jobs, and must still know those that ended
        "MinJobAge": 600,
        "KillWait": 5,
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
        "PartitionName=main Nodes=ALL Default=YES State=UP DefMemPerCPU=1000",
    ]
    CONFIGS[0].write_text(head + "\n".join(lines) + "\n")
    CONFIGS[1].write_text(head + gres)


def _start_munge(home: Path) -> None:
    (home / "munge.key").write_bytes(os.urandom(128))
    (home / "munge.key").chmod(0o400)
    files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    names = [f"--{flag}={home}/munged.{end}" for flag, end in files.items() if flag != "socket"]
    _run_daemon(home, "munged", f"--key-file={home}/munge.key", f"--socket={home}/munge.socket", *names)
    _wait(lambda: pid(home, "munged") is not None, home, "munged")


def _run_daemon(home: Path, name: str, *arguments: str) -> None:
    """Have a daemon go to the background; it writes its own pid file."""
    command = [shutil.which(name) or f"/usr/sbin/{name}", *arguments]
    ran = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=START_S, check=False)
    if ran.returncode:
        raise ClusterError(f"{name} did not start: {(ran.stderr or ran.stdout).strip() or _tail(home, name)}")


def _end(home: Path, name: str) -> None:
    found = pid(home, name)
    if found is None:
        return
    process = psutil.Process(found)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except psutil.TimeoutExpired:
        process.kill()
        process.wait(10)


def _check_loopback(home: Path) -> None:
    """Raises ClusterError where a daemon listens on anything but loopback."""
    for name in DAEMONS:
        for connection in psutil.Process(pid(home, name)).net_connections("inet"):
            if connection.status == psutil.CONN_LISTEN and not connection.laddr.ip.startswith("127."):
                raise ClusterError(f"{name} listens on {connection.laddr.ip}:{connection.laddr.port}, not on loopback")


def _wait(is_there: Callable[[], bool], home: Path, what: str) -> None:
    until = time.monotonic() + START_S
    while not is_there():
        if time.monotonic() > until:
            raise ClusterError(f"no {what} after {START_S} s; logs: {home}; last: {_tail(home, 'slurmctld')}")
        time.sleep(0.2)


def _said(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=START_S, check=False)
    return ran.stdout


def _tail(home: Path, name: str) -> str:
    log = home / f"{name}.log"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    return lines[-1] if lines else "(no log)"


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _free_ports(count: int) -> list[int]:
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in taken]
    for server in taken:
        server.close()
    return ports


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument("--gpus", type=int, default=2, help="fake GPUs of the node (default %(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="cores of the node (default %(default)s)")
    arguments = parser.parse_args()
    try:
        if arguments.action == "start":
            print(f"running, folder {start(arguments.gpus, arguments.cores)}")
        elif arguments.action == "stop":
            stop()
            print("stopped")
        else:
            home = folder()
            states = {name: pid(home, name) for name in DAEMONS} if home else {}
            print(f"{home or 'no cluster of this script'} {states}")
    except ClusterError as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
