"""What a checkpoint folder must hold, and the hash that identifies it."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from ..errors import KvreproError

_PICKLES = ("*.bin", "*.pt", "*.pth")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
INDEX = "model.safetensors.index.json"
# what transformers reads beside the weights; vocabularies also come as plain text
_TOKEN_FILES = ("*.json", "*.jinja", "additional_chat_templates/*.jinja", "*.model", "*.tiktoken")
_TOKEN_FILES += ("merges.txt", "vocab.txt")
# JSON that no library reads to make tokens: where the shards are, and reports of a training
_REPORTS = {INDEX, "training.json", "scores.json", "fetched.json", "trainer_state.json"}
_REPORTS |= {"all_results.json", "train_results.json", "eval_results.json"}


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be loaded, before anything is.

    Raises:
        KvreproError: configuration, tokenizer or safetensors weights are missing; names what is there instead.
    """
    if not (folder / "config.json").is_file():
        raise KvreproError(
            f"{folder} has no config.json: expected a Hugging Face checkpoint (config.json, *.safetensors, tokenizer)"
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(f.name for pattern in _PICKLES for f in folder.glob(pattern))
        if pickles:
            raise KvreproError(
                f"{folder} holds pickle weights only ({', '.join(pickles[:3])}), which can run code when loaded and "
                "are refused. Convert them where you trust them: "
                "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)"
            )
        raise KvreproError(f"{folder} has no *.safetensors weights: expected model.safetensors or its shards")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise KvreproError(
            f"{folder} has no tokenizer ({', '.join(_TOKENIZER_FILES)}): copy the tokenizer files of the model there, "
            "or tokenizer.save_pretrained(FOLDER)"
        )
    if (folder / INDEX).is_file():
        shards = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        missing = sorted(name for name in shards if not (folder / name).is_file())
        if missing:
            raise KvreproError(
                f"{folder} lacks {len(missing)} of {len(shards)} weight files, for example {missing[0]}: the download "
                "was cut off; run it again"
            )


def folder_fingerprint(folder: Path, patterns: tuple[str, ...] = ("*.safetensors",)) -> str:
    """SHA-256 over names and contents of the matching files; read again only when one has changed."""
    return _hash(folder, {f for pattern in patterns for f in folder.glob(pattern)})


def token_files_fingerprint(folder: Path) -> str:
    """SHA-256 over the files beside the weights that change tokens: configurations, tokenizer, chat templates.

    Model cards, reports and trained folders inside the folder do not count.
    """
    return _hash(folder, {f for pattern in _TOKEN_FILES for f in folder.glob(pattern) if f.name not in _REPORTS})


def _hash(folder: Path, files: set[Path]) -> str:
    states = ((f.relative_to(folder), f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(files))
    return _hash_of(folder, tuple(states))


@lru_cache(maxsize=64)
def _hash_of(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    for name, _, _ in files:
        digest.update(name.as_posix().encode())
        with (folder / name).open("rb") as file:
            # a block at a time: weights may be larger than memory
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()
