"""What must not change when code only moves: cell ids, tokens, kept positions and tables, beside their frozen values.

    python tests/frozen.py compare     says what differs from frozen.json; exit code 1 if anything does
    python tests/frozen.py write       freezes what this code gives, for changes made on purpose

Tokens and kept positions are those of the shipped models, so they hold wherever the default grid reproduces.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

FROZEN = Path(__file__).parent / "cases" / "frozen.json"
ROOT = Path(__file__).parents[1]
NEW_TOKENS, N_PROMPTS = 400, 3


def digest(value: object) -> str:
    """The first 16 hex digits of SHA-256 over a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def cell_ids() -> dict[str, str]:
    """Profile -> number of its cells and a digest over their ids in order; ids name weights, so none is downloaded."""
    from kvrepro.runs.profiles import load_profile, profile_names

    ids = {name: [cell.cell_id for cell in load_profile(name).cells] for name in profile_names()}
    return {name: f"{len(cells)} {digest(cells)}" for name, cells in ids.items()}


def replies() -> dict[str, str]:
    """Cell -> digest over tokens, statuses, evictions and kept positions of its first replies.

    One cell per model, method and options of the two tables of methods: the first that evicts on the longest benchmark.
    """
    import kvrepro
    from kvrepro.benchmarks.table import load_problems
    from kvrepro.runs.profiles import load_profile

    cells = {}
    for name in ("tiny-methods", "tiny-ablations"):
        for cell in load_profile(name).cells:
            cells.setdefault((cell.model, cell.label, cell.protocol), cell)
    models = {name: kvrepro.load_model(name) for name in {cell.model for cell in cells.values()}}
    found = {}
    for cell in cells.values():
        prompts = [problem.question for problem in load_problems(cell.benchmark, N_PROMPTS)]
        options = {name: value for name, value in cell.method_options().items() if value is not None}
        if cell.method == "full":
            options = {}
        done = kvrepro.generate(
            *models[cell.model], prompts, cell.method, max_new_tokens=NEW_TOKENS, seed=7, keep_positions=True, **options
        )
        found[cell.cell_id] = digest(
            [[c.token_ids, c.status, c.text, c.evictions, c.peak_tokens, c.kept_positions] for c in done]
        )
    return found


def tables() -> dict[str, str]:
    """File -> digest, of every committed table and every shipped benchmark."""
    files = sorted([*(ROOT / "notebooks" / "images").glob("*.csv"), *(ROOT / "kvrepro").rglob("*.jsonl")])
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


PARTS = {"cell ids": cell_ids, "replies": replies, "tables": tables}


def differences(part: str) -> list[str]:
    """One line per entry of a part that is not as it was frozen."""
    then, now = json.loads(FROZEN.read_text())[part], PARTS[part]()
    return [
        f"{part}, {key}: frozen {then.get(key)}, now {now.get(key)}"
        for key in sorted({*then, *now})
        if then.get(key) != now.get(key)
    ]


def main(action: str) -> int:
    """Run one of the two actions; returns the exit code."""
    if action == "write":
        FROZEN.write_text(json.dumps({name: part() for name, part in PARTS.items()}, indent=1) + "\n")
        return 0
    found = [line for part in PARTS for line in differences(part)]
    print("\n".join(found) or "nothing differs")
    return bool(found)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("write", "compare"):
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
