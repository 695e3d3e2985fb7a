"""What the test cluster refuses, without starting one."""

import os
import socket
import sys

import pytest

from . import cluster

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="SLURM runs on Linux")


@pytest.fixture
def etc(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "ETC", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def test_configuration_of_others_stays(etc):
    config = etc / "slurm.conf"
    config.write_text("ClusterName=ours\n")
    with pytest.raises(cluster.ClusterError, match=r"slurm\.conf is of another SLURM and stays"):
        cluster.start()
    cluster.stop()
    assert config.read_text() == "ClusterName=ours\n"


def test_a_cluster_that_runs_is_neither_replaced_nor_taken_away(etc, tmp_path, monkeypatch):
    (etc / "slurm.conf").write_text(f"{cluster.MADE_BY}{tmp_path}\n")
    monkeypatch.setattr(cluster, "pid", lambda home, name: 7)
    with pytest.raises(cluster.ClusterError, match="runs already"):
        cluster.start()
    assert (etc / "slurm.conf").is_file()


def test_what_a_killed_start_left_is_taken_away(etc, tmp_path_factory):
    home = tmp_path_factory.mktemp("cluster")
    for name in ("slurm.conf", "gres.conf"):
        (etc / name).write_text(f"{cluster.MADE_BY}{home}\n")
    # a number that belongs to another process by now
    (home / "slurmd.pid").write_text(str(os.getpid()))
    cluster.stop()
    assert not list(etc.iterdir()) and not home.exists()


def test_a_host_that_others_can_reach_is_refused(etc, monkeypatch):
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "172.17.0.2")
    with pytest.raises(cluster.ClusterError, match=r"172\.17\.0\.2, and must be loopback"):
        cluster.start()


def test_needs_root(etc, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(cluster.ClusterError, match="needs Linux and root"):
        cluster.start()
