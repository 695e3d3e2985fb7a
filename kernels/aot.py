"""Compile every kernel for GPUs that are not here, with the launch parameters that the wrappers really use.

The wrappers run on tensors of the device `meta` in the shapes of real models; `launch.recording` catches what they
would have launched. Registers, shared memory and spills of each compiled kernel are compared with the committed
table `aot_table.json`. `python -m kvrepro.kernels.aot` prints them, `--write` renews the table's rows for the
installed Triton. This proves that kernels compile and fit, not how fast they are.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .aot_uses import USES
from .launch import PDL_CAPABILITY, Launch, recording, stages_on

TABLE = Path(__file__).with_name("aot_table.json")
# (backend, architecture, warp size, shared memory bytes that one program may have)
TARGETS = {
    "sm_80": ("cuda", 80, 32, 166_912),
    "sm_90": ("cuda", 90, 32, 232_448),
    "gfx942": ("hip", "gfx942", 64, 65_536),
}
# bytes of stack per thread that no spill explains; more than this is one
TOLERATED_SPILL = 16
DTYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclass(frozen=True)
class Compiled:
    """Resources of one kernel on one target; `spill_bytes` per thread."""

    use: str
    kernel: str
    target: str
    warps: int
    registers: int
    shared_bytes: int
    spill_bytes: int

    @property
    def key(self) -> str:
        """What identifies the row."""
        return f"{self.use}/{self.kernel}/{self.target}"


def launches_of(use: str) -> list[Launch]:
    """What the wrapper launches for a use, without a device."""
    with recording() as launches:
        USES[use]()
    return launches


def build(launch: Launch, target: str) -> Any:
    """Compile one launch as Triton's just-in-time path would; the result has `asm` and `metadata`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    backend, arch, warp_size, _ = TARGETS[target]
    signature, constants, attributes = {}, dict(launch.constants), {}
    early = bool(constants.get("PDL")) and backend == "cuda" and divmod(arch, 10) >= PDL_CAPABILITY
    if "PDL" in constants:
        constants["PDL"] = early
    if "HIP" in constants:
        constants["HIP"] = backend == "hip"
    for place, name in enumerate(launch.kernel.arg_names):
        value = constants[name] if name in constants else launch.arguments[name]
        kind = "constexpr" if name in launch.constants else _kind(value)
        signature[name] = kind
        if kind == "constexpr":
            constants[name] = value
        elif isinstance(value, Tensor) or (isinstance(value, int) and value % 16 == 0):
            # what the launcher finds out about a call: aligned pointers and multiples of 16
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    stages = stages_on(backend == "hip", launch.stages)
    options = dict(num_warps=launch.warps, num_stages=stages, enable_fp_fusion=True)
    if early:
        options["launch_pdl"] = True
    return triton.compile(source, target=GPUTarget(backend, arch, warp_size), options=options)


def compile_launch(use: str, launch: Launch, target: str) -> Compiled:
    """Compile one launch and read its resources."""
    built = build(launch, target)
    registers, spilled = (_cuda_usage if TARGETS[target][0] == "cuda" else _hip_usage)(built.asm)
    return Compiled(use, launch.kernel.__name__, target, launch.warps, registers, built.metadata.shared, spilled)


def compile_all(uses: Iterable[str] = USES, targets: Iterable[str] = TARGETS) -> Iterator[Compiled]:
    """Every kernel of every use on every target."""
    for use in uses:
        for launch in launches_of(use):
            for target in targets:
                yield compile_launch(use, launch, target)


def read_table() -> dict[str, dict[str, Any]]:
    """`{Triton version: {row key: {warps, registers, shared_bytes, spill_bytes}}}`."""
    return json.loads(TABLE.read_text()) if TABLE.is_file() else {}


def row_values(row: Compiled) -> list[int]:
    """`[warps, registers, shared_bytes, spill_bytes]`, how the table stores a row."""
    return [row.warps, row.registers, row.shared_bytes, row.spill_bytes]


def problems(rows: Iterable[Compiled], version: str) -> list[str]:
    """What does not fit its target and what differs from the table; without rows for the version, what spills."""
    known = read_table().get(version, {})
    found = []
    for row in rows:
        limit = TARGETS[row.target][3]
        if row.shared_bytes > limit:
            found.append(f"{row.key}: {row.shared_bytes} bytes of shared memory, the target has {limit}")
        wanted = known.get(row.key)
        if known and wanted != row_values(row):
            found.append(f"{row.key}: [warps, registers, shared, spill] {row_values(row)}, the table has {wanted}")
        if not known and row.spill_bytes > TOLERATED_SPILL:
            found.append(f"{row.key}: {row.spill_bytes} bytes spilled per thread")
    return found


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"*{DTYPES[value.dtype]}"
    if isinstance(value, bool) or (isinstance(value, int) and value == 1):
        return "constexpr"
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64"
    return "fp32"


def _cuda_usage(asm: dict[str, Any]) -> tuple[int, int]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    tool = tool if tool.is_file() else shutil.which("cuobjdump")
    if tool is None:
        raise FileNotFoundError("cuobjdump is neither in Triton's wheel nor on the PATH")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.search(rf"\b{name}:(\d+)", text).group(1)) for name in ("REG", "STACK", "LOCAL"))
    return registers, stack + local


def _hip_usage(asm: dict[str, Any]) -> tuple[int, int]:
    text = asm["amdgcn"]
    registers, private = (
        int(re.search(rf"\.{name}:\s+(\d+)", text).group(1)) for name in ("vgpr_count", "private_segment_fixed_size")
    )
    return registers, private


def main(argv: list[str] | None = None) -> int:
    """Compile, print a table, compare or write; the last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m kvrepro.kernels.aot", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="renew the table's rows for the installed Triton")
    parser.add_argument("--use", nargs="*", choices=sorted(USES), help="only these (default: all)")
    parser.add_argument("--target", nargs="*", choices=sorted(TARGETS), help="only these (default: all)")
    args = parser.parse_args(argv)
    if args.write and (args.use or args.target):
        parser.error("--write renews the whole table; leave out --use and --target")
    import triton

    rows = []
    print(f"triton {triton.__version__}")
    print(f"{'use':34} {'kernel':18} {'target':7} {'warps':>5} {'regs':>5} {'shared':>7} {'spill':>6}")
    for row in compile_all(args.use or USES, args.target or TARGETS):
        rows.append(row)
        print(
            f"{row.use:34} {row.kernel:18} {row.target:7} {row.warps:5} {row.registers:5} {row.shared_bytes:7} "
            f"{row.spill_bytes:6}",
            flush=True,
        )
    if args.write:
        table = read_table() | {triton.__version__: {row.key: row_values(row) for row in rows}}
        entries = ",\n".join(
            f' "{version}": {{\n'
            + ",\n".join(f'  "{key}": {json.dumps(values)}' for key, values in sorted(table[version].items()))
            + "\n }"
            for version in sorted(table)
        )
        TABLE.write_text("{\n" + entries + "\n}\n")
    found = problems(rows, triton.__version__)
    for line in found:
        print(line, file=sys.stderr)
    print(json.dumps({"triton": triton.__version__, "kernels": len(rows), "problems": found}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
