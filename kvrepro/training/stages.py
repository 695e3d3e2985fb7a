"""Folders of the predictor's stages: an identity, a lock, resumable work beside the target, published whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import KvreproError, RunError
from ..files import append_row, held, read_rows, write_atomic
from ..paths import results_root
from ..runs.provenance import git_revision, hardware, package_versions

MANIFEST, IDENTITY, SESSIONS = "manifest.json", "identity.json", "sessions.jsonl"
# raised when a change of the code changes what a stage writes, so that old folders are not taken for new ones
STAGE_PROTOCOL = 1


def identity_hash(identity: dict[str, Any]) -> str:
    """First eight hex digits over everything that determines a stage's content."""
    text = json.dumps({**identity, "protocol": STAGE_PROTOCOL}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def stage_path(model: str, stage: str, identity: dict[str, Any]) -> Path:
    """`results/predictor/<model>/<stage>-<hash8>`."""
    return results_root() / "predictor" / model / f"{stage}-{identity_hash(identity)}"


@dataclass(frozen=True)
class StageFolder:
    """The folder of one stage and the one beside it where an unfinished run works."""

    path: Path
    manifest_name: str = MANIFEST

    @property
    def partial(self) -> Path:
        """Where a run works until it is complete."""
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def is_complete(self) -> bool:
        """True once published: the folder appears in one rename, manifest included."""
        return (self.path / self.manifest_name).is_file()

    @contextmanager
    def session(self, identity: dict[str, Any], *, is_main: bool = True) -> Iterator[Path]:
        """Hold the lock and yield the working folder; its time is added to the stage's.

        Args:
            is_main: False for the other processes of a distributed run, which share the folder and take no lock.

        Raises:
            KvreproError: another process works there, or the unfinished work has another identity.
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        identity = as_json(identity)
        lock = self.path.with_name(f".{self.path.name}.lock")
        with held(lock, f"the stage of {self.path}") if is_main else nullcontext():
            known = self.partial / IDENTITY
            if known.is_file() and json.loads(known.read_text()) != identity:
                raise KvreproError(
                    f"{self.partial} holds unfinished work of other settings: give another folder, or delete it"
                )
            if is_main:
                write_atomic(known, json.dumps(identity))
            started = time.monotonic()
            try:
                yield self.partial
            finally:
                if is_main and self.partial.is_dir():
                    append_row(self.partial / SESSIONS, {"wall_s": round(time.monotonic() - started, 3)})

    def publish(self, manifest: dict[str, Any], started: float, device: str) -> dict[str, Any]:
        """Add provenance and times, write the manifest, and rename the working folder into place.

        Args:
            started: `time.monotonic()` at the start of this session; earlier sessions are added.

        Returns:
            The whole manifest.
        """
        earlier = self.partial / SESSIONS
        before = sum(row["wall_s"] for row in read_rows(earlier, drop_cut_tail=True)) if earlier.is_file() else 0.0
        identity = json.loads((self.partial / IDENTITY).read_text())
        manifest = {
            **manifest, "identity": identity, "hash8": identity_hash(identity),
            "wall_s": round(before + time.monotonic() - started, 2), "versions": package_versions(),
            "git": git_revision(), "hardware": hardware(device),
        }  # fmt: skip
        for name in (IDENTITY, SESSIONS):
            (self.partial / name).unlink(missing_ok=True)
        write_atomic(self.partial / self.manifest_name, json.dumps(manifest, indent=1) + "\n")
        old = self.path.with_name(f".{self.path.name}.old")
        if self.path.exists():
            # a head that is trained anew replaces the one before; the old one is gone only after the new one stands
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.path, old)
        os.replace(self.partial, self.path)
        shutil.rmtree(old, ignore_errors=True)
        return manifest


def as_json(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity as it reads back from a file: tuples are lists there."""
    return json.loads(json.dumps(identity))


def read_stage_manifest(folder: Path, stage: str) -> dict[str, Any]:
    """The manifest of a finished stage.

    Raises:
        KvreproError: the folder is another stage's or unfinished.
        RunError: the manifest cannot be read.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise KvreproError(f"{folder} is no finished {stage} folder: {MANIFEST} is missing; run `kvrepro {stage}`")
    try:
        manifest = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{path} cannot be read ({error}): delete the folder and run `kvrepro {stage}`") from error
    if manifest.get("stage") != stage:
        raise KvreproError(f"{folder} holds {manifest.get('stage')!r}, expected the folder of `kvrepro {stage}`")
    return manifest


def tokenizer_hash(tokenizer) -> str:
    """SHA-256 over vocabulary and chat template: what decides which ids a text becomes."""
    table = sorted(tokenizer.get_vocab().items())
    content = json.dumps([table, getattr(tokenizer, "chat_template", None)], ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()


def check_same_model(manifest: dict[str, Any], folder: Path, weights: str, tokenizer: str) -> None:
    """Refuse a stage's output that another model or tokenizer made.

    Raises:
        KvreproError: names what differs and both hashes.
    """
    for what, key, ours in (("model", "weights", weights), ("tokenizer", "tokenizer", tokenizer)):
        theirs = manifest.get(key)
        if theirs != ours:
            raise KvreproError(
                f"{folder} was made with another {what}: {key} hash {str(theirs)[:24]}, ours is {ours[:24]}. "
                "Make it anew for this model"
            )
