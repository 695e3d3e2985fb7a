"""What is so, found without the code under test: finished cells by their files, what ran by the journal."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kvrepro.runs.folder import MANIFEST, NOTEBOOK, RECORDS

from .engine import KEPT, MADE, START
from .project import PROBLEMS, REPLIES, SAMPLES

Seen = tuple[int, int, int]


def is_finished(folder: Path) -> bool:
    """Are all three files there, and do they belong to this cell and to each other?"""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        content = (folder / RECORDS).read_bytes()
        rows = [json.loads(line) for line in content.decode().split("\n")[:-1]]
        json.loads((folder / NOTEBOOK).read_text())
        own = folder.as_posix().endswith("/" + manifest["cell_id"])
        keys = {(row["problem_id"], row["sample_id"]) for row in rows}
        right = len(rows) == len(keys) == manifest["n_records"] == REPLIES
        digest = manifest.get("records_sha256", hashlib.sha256(content).hexdigest())
    except (OSError, ValueError, KeyError, TypeError):
        return False
    texts = {row["text"] for row in rows}
    # of a change inside a text only the digest tells
    return own and right and len(texts) <= SAMPLES and digest == hashlib.sha256(content).hexdigest()


def stat_of(folder: Path) -> Seen | None:
    """Inode, time and size of the manifest; None without one."""
    try:
        state = (folder / MANIFEST).stat()
    except OSError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size


def finished(root: Path, cells: Iterable[str]) -> dict[str, Seen]:
    """Of these cells the finished ones below the profile's folder, and what their manifests are."""
    return {cell: stat_of(root / cell) for cell in cells if is_finished(root / cell)}


def made_twice(journal: list[dict[str, Any]], owed: Mapping[str, int]) -> list[str]:
    """Replies that were kept more often than once and once per own damage, `owed` by cell."""
    kept = Counter((row["cell"], row["problem"], row["sample"]) for row in journal if row["event"] == KEPT)
    return [f"{cell} {problem}/{s}: {n} times" for (cell, problem, s), n in kept.items() if n > 1 + owed.get(cell, 0)]


def never_made(journal: list[dict[str, Any]], cells: Iterable[str]) -> list[str]:
    """Cells whose replies nobody made, whatever lies in their folders."""
    made = defaultdict(set)
    for row in journal:
        if row["event"] == MADE:
            made[row["cell"]].add((row["problem"], row["sample"]))
    return [cell for cell in cells if len(made[cell]) != PROBLEMS * SAMPLES]


def at_once(journal: list[dict[str, Any]], name: str) -> list[str]:
    """Values of a column (`cell`, `device`) that two processes had at once: one went on after another had begun."""
    holder: dict[str, int] = {}
    found = {}
    for row in journal:
        if (value := row[name]) is None:
            continue
        if row["event"] == START:
            holder[value] = row["pid"]
        elif holder.get(value) != row["pid"]:
            found[value] = f"{name} {value}: pid {row['pid']} went on beside {holder.get(value)}"
    return list(found.values())
