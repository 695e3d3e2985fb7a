"""What a checkpoint folder must hold."""

from __future__ import annotations

import json
from pathlib import Path

from ..errors import KvreproError

_PICKLES = ("*.bin", "*.pt", "*.pth")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
INDEX = "model.safetensors.index.json"


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
