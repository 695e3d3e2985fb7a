"""The packages of the wheel; everything else stands in pyproject.toml, which cannot find packages and rename them."""

from setuptools import find_packages, setup

setup(
    script_name="setup.py",  # so that it is no module of `kvrepro.project`, whose folder is this one
    packages=[
        *find_packages(include=["kvrepro", "kvrepro.*"]),
        "kvrepro.kernels",
        *(f"kvrepro.kernels.{name}" for name in find_packages("kernels")),
        "kvrepro.project",
    ],
)
