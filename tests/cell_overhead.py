"""What a cell of a grid costs beside prefill and decoding, forked and alone; by hand: `python tests/cell_overhead.py`.

Runs the last cell of a profile as the grid does, in turn with and without the fork server. Prints medians of seconds of
wall clock as a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from kvrepro.runs.fork_server import fork_server
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.stand_in import stand_in_command


def seconds(profile: str, cell: str, results: Path, environment: Mapping[str, str]) -> dict[str, float]:
    """Of one run of the cell: all of it, and what is neither prefill nor decoding."""
    command = stand_in_command("kvrepro", "run", "--profile", profile, "--cell", cell, "--checked")
    environment = {**environment, "KVREPRO_RESULTS": str(results)}
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    whole = time.monotonic() - began
    assert done.returncode == 0 and "no fork server" not in done.stderr, done.stderr
    stats = json.loads((results / profile / cell / "manifest.json").read_text())["stats"]
    return {"wall_s": whole, "overhead_s": whole - stats["prefill_s"] - stats["decode_s"]}


def main() -> None:
    """Rounds in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    cell = load_profile(args.profile).cells[-1].cell_id
    rows: dict[str, list[dict[str, float]]] = {"forked": [], "alone": []}
    with tempfile.TemporaryDirectory() as name, fork_server(Path(name) / "log") as forks:
        began = time.monotonic()
        seconds(args.profile, cell, Path(name) / "first", forks)
        result: dict[str, object] = {"first_forked_s": round(time.monotonic() - began, 2)}
        for number in range(args.rounds):
            for kind, environment in (("forked", forks), ("alone", os.environ)):
                rows[kind].append(seconds(args.profile, cell, Path(name) / f"{kind}-{number}", environment))
    for kind, found in rows.items():
        result[kind] = {name: round(statistics.median(row[name] for row in found), 2) for name in found[0]}
    print(json.dumps({"cell": cell, "rounds": args.rounds, "load": os.getloadavg()[0], **result}))


if __name__ == "__main__":
    main()
