"""What went wrong when a model was looked for or loaded, in the user's words, with what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KvreproError

if TYPE_CHECKING:
    from .table import ModelEntry

_PICKLES = ("*.bin", "*.pt", "*.pth")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
INDEX = "model.safetensors.index.json"


def check_folder(folder: Path) -> None:
    """Raise `KvreproError` unless a folder holds configuration, tokenizer and safetensors weights; names what is
    there.
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


def explained(entry: ModelEntry, error: BaseException) -> str:
    """The message for a failure, by the types in its chain of causes: transformers wraps them into OSError."""
    from huggingface_hub import errors as hub

    causes = tuple(_chain(error))
    source = entry.source

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if met(hub.GatedRepoError):
        said = (
            f"access is restricted. Accept the terms at https://huggingface.co/{source}, then log in with "
            "`hf auth login` (or set HF_TOKEN)"
        )
    elif met(hub.RepositoryNotFoundError):
        said = (
            "the Hub has no such model (or it is private). Check the spelling OWNER/NAME; if a folder was meant, "
            f"{Path(source).expanduser().resolve()} does not exist. Names: kvrepro list models"
        )
    elif met(hub.RevisionNotFoundError):
        said = (
            f"it has no revision {entry.revision!r}. Give a commit, tag or branch that exists (OWNER/NAME@REVISION), "
            "or leave the revision out for the newest"
        )
    elif met(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError):
        revision = f" --revision {entry.revision}" if entry.revision else ""
        said = (
            f"no network, or offline mode, and revision {entry.revision or 'main'} is not in the local cache. On a "
            f"machine with network run `hf download {source}{revision}` and copy the folder (HF_HOME), or give the "
            "model as a folder"
        )
    elif met(ImportError):
        extra = "models" if entry.quantisation is None else "quantised"
        said = f"{text.rstrip('.')}. Install the optional packages: pip install 'kvrepro[{extra}]'"
    elif "safetensors" in text:
        said = f"{text} Only safetensors weights are read (pickle weights can run code): convert them first"
    else:
        said = f"{text}\nGive a folder with config.json, *.safetensors and the tokenizer files, or check the network"
    return f"model {entry.name!r} cannot be loaded from {source!r}: {said}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        yield cause
        cause = cause.__cause__ or cause.__context__
