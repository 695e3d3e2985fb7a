"""Devices of a host go to one run each; no device is asked for here, so machines without any do."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest
import torch

from kvrepro import paths
from kvrepro.errors import KvreproError
from kvrepro.paths import private_folder
from kvrepro.runs.gpus import claimed_gpus, host_gpus

LIMIT_S = 60
VARIABLES = ("KVREPRO_GPUS", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
ORDER = "CUDA_DEVICE_ORDER"


@pytest.fixture(autouse=True)
def _own_machine(tmp_path, monkeypatch):
    """Locks of the test's own, and no device that somebody chose."""
    monkeypatch.setattr(paths, "HOST_FOLDERS", (str(tmp_path),))
    for name in (*VARIABLES, ORDER):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shared(monkeypatch):
    """Say which devices runs share."""
    return lambda names: monkeypatch.setenv("KVREPRO_GPUS", names)


def seen():
    return [os.environ.get(name) for name in VARIABLES]


def test_without_a_list_nothing_is_claimed_and_a_schedulers_choice_stands(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with claimed_gpus(8) as names:
        assert (names, seen()) == ([], [None, "3", None])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n", "expected"), [(0, []), (1, ["0"]), (2, ["0", "1"])])
def test_children_see_the_claimed_devices_alone_and_share_none(shared, monkeypatch, n, expected):
    shared("0, 1,")
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "7")
    before = seen()
    with claimed_gpus(n) as names:
        assert names == expected
        # a child that claims as well must not wait for its parent
        assert seen() == ([None, ",".join(expected), ",".join(expected)] if n else before)
    assert seen() == before


def test_more_than_there_are_is_refused_in_one_line(shared):
    shared("0,0")
    expected = r"^2 GPUs are needed, KVREPRO_GPUS=0 has 1: name more, or ask for fewer$"
    with pytest.raises(KvreproError, match=expected), claimed_gpus(2):
        pass


CLAIM = """
import sys
from kvrepro import paths
from kvrepro.runs.gpus import claimed_gpus
paths.HOST_FOLDERS = sys.argv[1:2]
with claimed_gpus(int(sys.argv[2])) as names:
    print(*names, flush=True)
    sys.stdin.readline()
"""


def claim(n):
    """Another process that claims devices until it reads a line."""
    command = [sys.executable, "-c", CLAIM, *paths.HOST_FOLDERS, str(n)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_device_that_another_run_has_is_waited_for_even_after_that_was_killed(shared):
    shared("0,1")
    first, second = claim(1), claim(1)
    assert sorted([first.stdout.readline(), second.stdout.readline()]) == ["0\n", "1\n"]
    third = claim(1)
    said = third.stderr.readline()
    host, one, other = os.uname().nodename, *sorted((first.pid, second.pid), key=str)
    assert said == (
        f"waiting for 1 of the GPUs 0, 1: other runs have them, last pid {one} on {host} and pid {other} on {host}\n"
    )
    first.kill()
    first.wait()
    device = third.stdout.readline()
    assert {device, "0\n", "1\n"} == {"0\n", "1\n"}
    for run in (second, third):
        # said once
        assert run.communicate("\n", timeout=LIMIT_S)[1] == ""


def test_runs_that_want_two_each_do_not_wait_for_each_other(shared):
    shared("0,1,2")
    runs = [claim(2) for _ in range(3)]
    for run in runs:
        run.stdin.write("\n")
        run.stdin.close()
    for run in runs:
        assert run.wait(LIMIT_S) == 0
        assert len(run.stdout.read().split()) == 2


def test_one_of_two_is_given_back_while_both_are_waited_for(shared):
    shared("0,1")
    with claimed_gpus(1):
        shared("0,1")
        both = claim(2)
        assert "waiting for 2" in both.stderr.readline()
        with claimed_gpus(1) as names:
            assert names == ["1"]
    assert both.stdout.readline() == "0 1\n"
    assert both.communicate("\n", timeout=LIMIT_S) == ("", "")


@pytest.fixture
def nvidia(tmp_path, monkeypatch):
    """A machine whose `nvidia-smi` knows two devices; called, it says which models."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)

    def knows(first="H200, 141 GB", second="H200, 141 GB"):
        program.write_text(f"#!/bin/sh\necho 0, GPU-aaaa-1, {first}\necho 1, GPU-bbbb-2, {second}\n")
        program.chmod(0o755)

    knows()
    return knows


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in of nvidia-smi is a shell script")
@pytest.mark.parametrize("names", ["0,GPU-aaaa-1", "GPU-aaaa-1,GPU-aaaa"])
def test_a_device_with_two_names_is_one_device(nvidia, shared, names):
    shared(names)
    with pytest.raises(KvreproError, match="has 1: name more"), claimed_gpus(2):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in of nvidia-smi is a shell script")
def test_a_device_that_has_a_number_elsewhere_is_waited_for(nvidia, shared):
    shared("1")
    with claimed_gpus(1):
        shared("GPU-bbbb-2")
        other = claim(1)
        assert "waiting for 1 of the GPUs GPU-bbbb-2" in other.stderr.readline()
    # it keeps the name that it was given
    assert other.communicate("\n", timeout=LIMIT_S)[0] == "GPU-bbbb-2\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in of nvidia-smi is a shell script")
def test_a_number_is_one_of_nvidia_smi_only_where_cuda_counts_alike(nvidia, shared, monkeypatch):
    nvidia("T400", "H200")
    shared("0,GPU-aaaa-1")
    # by itself CUDA calls the fast one 0
    with claimed_gpus(2) as names:
        assert names == ["0", "GPU-aaaa-1"]
    shared("0,GPU-aaaa-1")
    monkeypatch.setenv(ORDER, "PCI_BUS_ID")
    with pytest.raises(KvreproError, match="has 1: name more"), claimed_gpus(2):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in of nvidia-smi is a shell script")
def test_a_number_that_means_another_device_to_another_job_is_not_waited_for(nvidia, shared, tmp_path):
    shared("0")
    with claimed_gpus(1):
        # of a job that may use the second device alone
        program = tmp_path / "bin" / "nvidia-smi"
        program.write_text("#!/bin/sh\necho 0, GPU-bbbb-2, H200\n")
        shared("0")
        other = claim(1)
        assert other.communicate("\n", timeout=LIMIT_S) == ("0\n", "")


def test_shells_with_other_folders_for_temporary_files_meet(shared, tmp_path, monkeypatch):
    shared("0")
    with claimed_gpus(1):
        shared("0")
        monkeypatch.setenv("TMPDIR", str(tmp_path / "elsewhere"))
        (tmp_path / "elsewhere").mkdir()
        other = claim(1)
        assert "waiting for 1 of the GPUs 0" in other.stderr.readline()
    assert other.communicate("\n", timeout=LIMIT_S)[0] == "0\n"


def test_names_that_nothing_can_tell_apart_are_devices_of_their_own(shared, monkeypatch):
    monkeypatch.setenv("PATH", "")
    shared("MIG-GPU-1/2/0,MIG-GPU-1/3/0")
    with claimed_gpus(2) as names:
        assert names == ["MIG-GPU-1/2/0", "MIG-GPU-1/3/0"]


def test_a_list_is_trusted_and_a_visible_choice_is_kept(shared, monkeypatch):
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "5")
    assert host_gpus() == ["5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-aaaa-1,MIG-GPU-1/2/0,-1,4")
    assert host_gpus() == ["2", "GPU-aaaa-1", "MIG-GPU-1/2/0"]
    for none in ("", "-1", "NoDevFiles"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", none)
        assert host_gpus() == []
    shared("6,7")
    assert host_gpus() == ["6", "7"]


def test_all_there_are_without_starting_cuda(monkeypatch):
    found = host_gpus()
    assert len(found) == torch.cuda.device_count() and not torch.cuda.is_initialized()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert host_gpus() == ["0", "1", "2"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has a folder of temporary files for every user")
def test_the_folder_of_the_locks_is_the_users_alone(shared, tmp_path):
    folder = private_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.name.endswith(f"-{os.uname().nodename.partition('.')[0][-24:]}")
    folder.rmdir()
    folder.symlink_to(tmp_path)
    shared("0")
    with pytest.raises(KvreproError, match=r"kvrepro-\d+-[\w-]+ is no folder of yours alone"), claimed_gpus(1):
        pass


def test_the_first_place_that_can_be_written_has_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "HOST_FOLDERS", (str(tmp_path / "none"), str(tmp_path)))
    assert private_folder().parent == tmp_path
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(KvreproError, match=r"none of .* can be made, in a path of at most 9 bytes.*: set TMPDIR"):
        private_folder(9)
