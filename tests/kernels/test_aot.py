"""Compilation for GPUs that are not here: everything compiles, fits, and uses what the committed table says."""

from __future__ import annotations

import pytest
from kvrepro.kernels import aot
from kvrepro.kernels.aot_uses import CORE_USES, USES

from .interpreter import needs_triton

pytestmark = needs_triton


@pytest.mark.parametrize("use", USES)
def test_wrappers_launch_without_reading_the_device(use):
    """Tensors on `meta` hold nothing: a wrapper that read a value back would raise."""
    launches = aot.launches_of(use)
    assert launches
    for launch in launches:
        names = set(launch.arguments) | set(launch.constants)
        assert names == set(launch.kernel.arg_names), (
            f"{launch.kernel.__name__}: {names ^ set(launch.kernel.arg_names)}"
        )
        assert 0 not in launch.grid and launch.grid[0] < 2**31 and all(n < 65536 for n in launch.grid[1:])


def check(uses, targets):
    import triton

    found = aot.problems(aot.compile_all(uses, targets), triton.__version__)
    assert not found, "\n".join([*found, "if intended: python -m kvrepro.kernels.aot --write"])


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("use", CORE_USES)
def test_core_kernels_compile_within_the_table(use, target):
    """One use per kernel and one target per backend; `python -m kvrepro.kernels.aot` does all, which takes minutes."""
    check([use], [target])


def test_the_table_covers_every_use_and_target_and_lets_nothing_through():
    for version, rows in aot.read_table().items():
        covered = {(use, target) for use, _, target in (key.split("/") for key in rows)}
        assert covered == {(use, target) for use in USES for target in aot.TARGETS}, version
        for key, (_, _, shared, spilled) in rows.items():
            assert shared <= aot.TARGETS[key.rpartition("/")[2]][3], f"{version} {key}"
            assert spilled <= aot.TOLERATED_SPILL, f"{version} {key} spills {spilled} bytes per thread"


def test_a_changed_kernel_is_noticed():
    row = aot.Compiled("decode-llama-bf16-2501", "split_kernel", "sm_90", 4, 999, 300_000, 64)
    version = next(iter(aot.read_table()))
    found = aot.problems([row], version)
    assert len(found) == 2 and "300000 bytes of shared memory" in found[0] and "the table has [" in found[1]
    assert "64 bytes spilled" in aot.problems([row], "no such version")[1]
