"""Programmatic dependent launch: who gets it, and that in machine code nothing shared is touched before the wait."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from kvrepro.kernels import aot, launch
from kvrepro.kernels.aot_uses import CORE_USES

from .interpreter import needs_triton

# waits, lets the next kernel be launched, and all that reaches memory of the device (cp.async and TMA too)
ACCESS = r"\b(ACQBULK|PREEXIT|LDG|LDGSTS|LD|STG|ST|ATOM|ATOMG|RED|REDG|UBLK\w+|UTMA\w+)\b"
# of all loads, the part that may come before the wait: the weight, of weight, x and residual
EARLY_LOADS = {"add_rms_norm_kernel": 3}


def early_launches() -> list[tuple[str, launch.Launch]]:
    return [(use, one) for use in CORE_USES for one in aot.launches_of(use) if "PDL" in one.constants]


@needs_triton
def test_the_kernels_of_a_step_take_part():
    names = {one.kernel.__name__ for _, one in early_launches()}
    assert {"append_kernel", "add_rms_norm_kernel", "silu_mul_kernel", "chunk_kernel", "draw_kernel"} <= names


@needs_triton
def test_nothing_that_another_kernel_writes_or_reads_is_touched_before_the_wait():
    for use, one in early_launches():
        built, name = aot.build(one, "sm_90"), one.kernel.__name__
        assert built.metadata.launch_pdl, use
        assert built.asm["ptx"].count("griddepcontrol.wait") == 1, name
        order = re.findall(ACCESS, built.asm["sass"])
        at = order.index("ACQBULK")
        before, after = Counter(order[:at]), Counter(order[at:])
        assert before.pop("PREEXIT") == 1, name
        assert set(before) <= {"LDG"} and after["STG"] > 0, f"{name}: {before}"
        parts = EARLY_LOADS.get(name)
        assert before["LDG"] == (after["LDG"] // (parts - 1) if parts else 0), f"{name}: {before}, then {after}"


@needs_triton
@pytest.mark.parametrize("target", ["sm_80", "gfx942"])
def test_other_targets_get_the_plain_form(target):
    for use, one in early_launches():
        built = aot.build(one, target)
        assert not getattr(built.metadata, "launch_pdl", False), use
        assert "griddepcontrol" not in (built.asm["ptx"] if target == "sm_80" else built.asm["amdgcn"]), use


@needs_triton
def test_the_variable_turns_it_off(monkeypatch):
    monkeypatch.setenv("KVREPRO_PDL", "0")
    (one,) = aot.launches_of("append-llama-bf16")
    built = aot.build(one, "sm_90")
    assert one.constants["PDL"] is False and not built.metadata.launch_pdl
    assert "griddepcontrol" not in built.asm["ptx"]


class Kernel:
    """Stands for compiled code; remembers what it was launched with."""

    def __init__(self, *arg_names: str):
        self.arg_names, self.calls = arg_names, []

    def __getitem__(self, grid):
        return lambda **given: self.calls.append(given)


@pytest.mark.parametrize(("has", "variable", "wanted"), [(True, "1", True), (True, "0", False), (False, "1", False)])
def test_a_kernel_that_takes_the_constant_is_told_and_launched_early(monkeypatch, has, variable, wanted):
    monkeypatch.setenv("KVREPRO_PDL", variable)
    monkeypatch.setattr(launch, "has_pdl", lambda device: has)
    early, plain = Kernel("x", "SIZE", "PDL"), Kernel("x", "SIZE")
    for kernel in (early, plain):
        launch.launch(kernel, (1,), {"x": torch.zeros(1)}, {"SIZE": 1})
    assert early.calls[0]["PDL"] is wanted and early.calls[0].get("launch_pdl", False) is wanted
    assert not {"PDL", "launch_pdl"} & set(plain.calls[0])


@pytest.mark.parametrize(("capability", "wanted"), [((8, 0), False), ((8, 9), False), ((9, 0), True), ((12, 0), True)])
def test_hopper_and_later_nvidia_gpus_have_it(monkeypatch, capability, wanted):
    monkeypatch.setattr(launch, "_capability", lambda index: capability)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.version, "hip", None)
    assert launch.has_pdl(torch.device("cuda", 0)) is wanted
    assert not launch.has_pdl(torch.device("cpu"))
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not launch.has_pdl(torch.device("cuda", 0))
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert not launch.has_pdl(torch.device("cuda", 0))
