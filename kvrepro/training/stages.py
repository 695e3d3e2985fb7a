"""Folders of the predictor's stages: identity, lock, resumable work, published whole; states of a training run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..claims import held
from ..errors import KvreproError, RunError
from ..files import ResultFolder, append_row, replacing, rows_so_far, write_json
from ..paths import results_root
from ..runs.provenance import provenance

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


class StageFolder(ResultFolder):
    """The folder of one stage.

    Args:
        identity: everything that determines the content: `stage`, hashes and settings.
        manifest: the file that holds identity, provenance and times.
    """

    def __init__(self, path: Path, identity: dict[str, Any], manifest: str = MANIFEST):
        super().__init__(path)
        # as it reads back from a file: tuples are lists there
        self.identity, self.manifest = json.loads(json.dumps(identity)), manifest

    def finished(self) -> dict[str, Any] | None:
        """The manifest with its `folder`, or None where nothing is published: a folder appears whole, in one rename.

        Raises:
            KvreproError: the folder holds another stage, or this one of other settings.
        """
        if not (self.path / self.manifest).is_file():
            return None
        found = read_stage_manifest(self.path, self.identity["stage"])
        if found["identity"] != self.identity:
            raise KvreproError(
                f"{self.path} is finished but holds {found['stage']} of other settings ({found['hash8']}, wanted "
                f"{identity_hash(self.identity)}): give another folder, or delete it"
            )
        return {**found, "folder": str(self.path)}

    @contextmanager
    def session(self, *, is_main: bool = True) -> Iterator[Path]:
        """Hold the lock and yield the working folder; its time is added to the stage's.

        Args:
            is_main: False for the other processes of a distributed run, which share the folder and take no lock.

        Raises:
            KvreproError: another process works there, or the unfinished work has another identity.
        """
        self.partial.mkdir(parents=True, exist_ok=True)
        with held(self.lock, f"the stage of {self.path}") if is_main else nullcontext():
            known = self.partial / IDENTITY
            if known.is_file() and json.loads(known.read_text()) != self.identity:
                raise KvreproError(
                    f"{self.partial} holds unfinished work of other settings: give another folder, or delete it"
                )
            if is_main:
                write_json(known, self.identity)
            self.started = time.monotonic()
            try:
                yield self.partial
            finally:
                if is_main and self.partial.is_dir():
                    append_row(self.partial / SESSIONS, {"wall_s": round(time.monotonic() - self.started, 3)})

    def publish(self, content: dict[str, Any], device: str) -> dict[str, Any]:
        """Inside a session: write the manifest with provenance and times, and rename the working folder into place.

        Returns:
            The manifest with its `folder`.
        """
        earlier = sum(row["wall_s"] for row in rows_so_far(self.partial / SESSIONS))
        manifest = {
            **content,
            "identity": self.identity,
            "hash8": identity_hash(self.identity),
            "wall_s": round(earlier + time.monotonic() - self.started, 2),
            **provenance(device),
        }
        for name in (IDENTITY, SESSIONS):
            (self.partial / name).unlink(missing_ok=True)
        write_json(self.partial / self.manifest, manifest)
        old = self.path.with_name(f".{self.path.name}.old")
        if self.path.exists():
            # a head that is trained anew replaces the one before; the old one is gone only after the new one stands
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.path, old)
        os.replace(self.partial, self.path)
        shutil.rmtree(old, ignore_errors=True)
        return {**manifest, "folder": str(self.path)}


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


def check_same_model(manifest: dict[str, Any], folder: Path, ours: dict[str, str]) -> None:
    """Refuse a stage's output that another model or tokenizer made.

    Args:
        ours: hashes of `weights` and `tokenizer`.

    Raises:
        KvreproError: names what differs and both hashes.
    """
    for what, key in (("model", "weights"), ("tokenizer", "tokenizer")):
        found = str(manifest.get(key))
        if found != ours[key]:
            raise KvreproError(
                f"{folder} was made with another {what}: {key} hash {found[:24]}, ours is {ours[key][:24]}. Make it "
                "anew for this model"
            )


@dataclass(frozen=True)
class TrainingState:
    """The file of an unfinished training: recipe, weights and optimisers, and how far it has come.

    Args:
        path: None keeps nothing.
        parts: by name, what has a `state_dict`.
    """

    path: Path | None
    recipe: Any
    parts: Mapping[str, Any]

    def save(self, **progress: Any) -> None:
        """Write the state; a run that is killed while it writes leaves the one before."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        with replacing(self.path) as beside:
            torch.save({"recipe": asdict(self.recipe), "parts": parts, "progress": progress}, beside)

    def resume(self, may_differ: str | None = None) -> dict[str, Any]:
        """Load the parts and return the progress with the `recipe` it was saved under; empty where nothing is saved.

        Args:
            may_differ: a setting of the recipe that may have changed since.

        Raises:
            KvreproError: it belongs to another recipe, or was written by an older version.
        """
        if self.path is None or not self.path.is_file():
            return {}
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        if not {"recipe", "parts", "progress"} <= set(state):
            raise KvreproError(f"{self.path} was written by an older version: delete it to train from the beginning")
        changed = {name for name, value in asdict(self.recipe).items() if state["recipe"].get(name) != value}
        if changed - {may_differ}:
            raise KvreproError(f"{self.path} was written by another recipe: delete it or train into another folder")
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        return {**state["progress"], "recipe": state["recipe"]}
