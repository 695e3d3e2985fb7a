"""The two lists of exact versions, for pip and for conda, say the same, and satisfy the package's own bounds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import version as installed_version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kvrepro.paths import PACKAGE

ROOT = PACKAGE.parent
CONSTRAINTS, ENVIRONMENT = ROOT / "constraints.txt", ROOT / "environment.yml"
needs_constraints = pytest.mark.skipif(not CONSTRAINTS.is_file(), reason="constraints.txt is not in this checkout")
needs_environment = pytest.mark.skipif(not ENVIRONMENT.is_file(), reason="environment.yml is not in this checkout")
# conda's own names for packages that PyPI calls differently
CONDA_NAMES = {
    "pytorch": "torch",
    "pytorch-cpu": "torch",
    "matplotlib-base": "matplotlib",
    "snakemake-minimal": "snakemake",
}
CONDA_ONLY = {"python", "pip"}
# the CUDA wheel of torch dictates its triton
WITHOUT_CONSTRAINT = {"triton"}


def constraint_versions() -> dict[str, str]:
    found = {}
    for raw in CONSTRAINTS.read_text().splitlines():
        line = raw.split("#")[0].strip()
        if line and not line.startswith("-"):
            name, _, rest = line.partition("==")
            found[canonicalize_name(name.strip())] = rest.split(";")[0].strip()
    return found


def environment_versions() -> dict[str, str]:
    found = {}
    for entry in yaml.safe_load(ENVIRONMENT.read_text())["dependencies"]:
        for text in entry["pip"] if isinstance(entry, dict) else [entry]:
            if text.startswith(("-", ".")):
                continue
            name, version = re.fullmatch(r"([A-Za-z0-9_.:-]+?)\s*(?:==?\s*([^\s;]+).*)?", text.strip()).groups()
            name = canonicalize_name(name.split("::")[-1])
            found[CONDA_NAMES.get(name, name)] = version
    return found


def plain(version: str) -> str:
    """Without a local part such as `+cpu`, which conda does not write."""
    return version.partition("+")[0]


@needs_constraints
@needs_environment
def test_every_version_of_the_conda_environment_is_exact_and_equals_the_constraint():
    constraints, environment = constraint_versions(), environment_versions()
    assert len(environment) > 3, f"read only {environment} from environment.yml"
    wrong = {
        name: (version, constraints.get(name))
        for name, version in environment.items()
        if name not in CONDA_ONLY and (version is None or plain(version) != plain(constraints.get(name, "")))
    }
    assert not wrong, f"package: (environment.yml, constraints.txt) = {wrong}"


@needs_constraints
def test_every_constraint_is_an_exact_version():
    loose = {name: version for name, version in constraint_versions().items() if not re.match(r"\d", version)}
    assert not loose


@needs_constraints
@needs_environment
def test_direct_dependencies_stand_in_both_lists_within_their_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name in WITHOUT_CONSTRAINT:
            continue
        for file, versions in ((CONSTRAINTS, constraint_versions()), (ENVIRONMENT, environment_versions())):
            assert name in versions, f"{name} has no exact version in {file.name}"
            assert requirement.specifier.contains(plain(versions[name])), f"{text} excludes {versions[name]}"


def test_the_plugins_that_make_test_calls_are_declared_for_developers():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(text).name) for text in project["optional-dependencies"]["dev"]}
    makefile = (ROOT / "Makefile").read_text()
    flags = {"pytest-xdist": "--dist ", "nbval": "--nbval", "ruff": "/ruff "}
    missing = [name for name, flag in flags.items() if flag in makefile and name not in declared]
    assert not missing, f"the Makefile calls {missing}, which pyproject.toml does not declare"


def test_installed_dependencies_satisfy_the_declared_ranges():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            found = plain(installed_version(requirement.name))
            assert requirement.specifier.contains(found, prereleases=True), f"{text}, installed {found}"


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(("user", "allowed"), [("0", True), ("1000", False)], ids=["root", "another user"])
def test_make_lab_lets_root_in_and_no_flag_weakens_it_for_others(tmp_path, user, allowed):
    (tmp_path / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (tmp_path / "id").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    command = ["make", "--dry-run", "--directory", str(ROOT), "lab"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (lab,) = [line for line in done.stdout.splitlines() if "jupyter lab" in line]
    assert ("--allow-root" in lab) == allowed


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("variables", "environment", "is_container"),
    [
        (["CONTAINER="], {}, False),
        (["CONTAINER=/run/.containerenv"], {}, True),
        ([], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
    ],
    ids=["none", "file", "kubernetes"],
)
def test_make_lab_is_reached_from_outside_a_container_and_only_there(variables, environment, is_container):
    command = ["make", "--dry-run", "--directory", str(ROOT), "lab", "LAB_ARGS=--port 9", *variables]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    (lab,) = [line for line in done.stdout.splitlines() if "jupyter lab" in line]
    assert lab.endswith("--port 9") and "token" not in lab
    assert ("--ip=0.0.0.0 --no-browser" in lab) == is_container
    assert ("docker run -p" in done.stdout) == is_container
