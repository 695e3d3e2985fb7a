"""`kvrepro rehearse`: a profile's own parameter file, end to end, on stand-ins for its models and rows."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from ..errors import KvreproError
from ..files import lines_of, write_json
from ..paths import hub_environment, results_root
from ..runs.processes import child_command
from ..runs.profiles import load_profile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The rehearsal profile, and where published rows lie."""
    parser.add_argument("profile", nargs="?", default="paper-rehearsal")
    parser.add_argument("--data", type=Path, help="folder with published rows (<benchmark>.jsonl); else stand-in rows")
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="cells that run side by side")
    parser.add_argument("--fresh", action="store_true", help="delete what an earlier rehearsal left")


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Build the stand-ins once, run the grid on them offline, say what it took."""
    from ..runs.rehearsal import NOTE, build_hub, write_benchmarks

    profile = load_profile(args.profile)
    if profile.rehearses is None:
        raise KvreproError(f"profile {profile.name!r} is no rehearsal: it has no `rehearses: PROFILE`")
    if args.data is not None and not args.data.is_dir():
        raise KvreproError(f"--data {args.data}: no such folder")
    started = time.monotonic()
    folder = results_root() / profile.name
    if args.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    hub, rows, table = folder / "hub", folder / "rows", folder / "models.yaml"
    card = folder / "rehearsal.json"
    if not card.is_file():
        hub.mkdir(parents=True, exist_ok=True)
        origins = write_benchmarks(rows, args.data)
        files = sorted(rows.glob("*.jsonl"))
        texts = [line for path in files for line in lines_of(path.read_bytes(), str(path)) if line]
        models = build_hub(hub, sorted({c.model for c in profile.cells}), texts)
        table.write_text(yaml.safe_dump(models))
        content = {"note": NOTE, "rehearses": profile.rehearses, "overrides": profile.overrides, "rows": origins}
        write_json(card, content)
    print(f"stand-ins in {hub}: {NOTE}", file=sys.stderr)
    # a process of its own: where the Hub is, is read once, when its library is imported
    command = child_command("kvrepro", "grid", profile.name, "--cores", str(args.cores), "--json")
    environment = {**os.environ, **hub_environment(hub, rows, table)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    last = done.stdout.strip().splitlines()
    result = json.loads(last[-1]) if last else {}
    minutes = (time.monotonic() - started) / 60
    used = os.times()
    cpu = (used.children_user + used.children_system) / 60
    print(
        f"{result.get('done', 0)} of {len(profile.cells)} cells of {profile.rehearses} rehearsed in {minutes:.1f} min "
        f"({cpu:.1f} min of processor time)" + (f"; open {result['index']}" if "index" in result else "")
    )
    print(*result.get("verdict", ()), sep="\n")
    took = {"minutes": round(minutes, 2), "cpu_minutes": round(cpu, 2)}
    return {**result, "rehearses": profile.rehearses, **took, "exit_code": int(done.returncode != 0)}
