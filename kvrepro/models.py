"""Models by name: the two that the repository ships, those of the paper, and any folder or Hub id."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from .errors import KvreproError, UnknownNameError
from .paths import CHECKPOINTS
from .tokens import THINK_END_TEXT


@dataclass(frozen=True)
class ModelEntry:
    """One row of the model table. `source` is a folder or a Hub id; `title` is what figures print."""

    name: str
    title: str
    source: str
    dtype: str
    revision: str | None = None
    predictor: str | None = None
    think_end: str = THINK_END_TEXT


MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry("tiny-r1-llama", "Tiny-R1-Llama", str(CHECKPOINTS / "tiny-r1-llama"), "float32"),
        ModelEntry("tiny-r1-qwen", "Tiny-R1-Qwen", str(CHECKPOINTS / "tiny-r1-qwen"), "float32"),
        ModelEntry("r1-llama", "R1-Llama", "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "bfloat16"),
        ModelEntry("r1-qwen", "R1-Qwen", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "bfloat16"),
    )
}


def model_entry(name: str) -> ModelEntry:
    """A table row, or a row made for a local folder (any path with a separator or a leading dot).

    Raises:
        UnknownNameError: neither a name of the table nor a folder with a `config.json`.
    """
    if name in MODELS:
        return MODELS[name]
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return ModelEntry(folder.name, folder.name, str(folder.resolve()), "auto")
    raise UnknownNameError("model", name, [*MODELS, "a folder with config.json, weights and tokenizer"])


def weights_fingerprint(entry: ModelEntry) -> str:
    """SHA-256 over a local model's weights and tokenizer, or `hub:id@revision`; part of a cell's identity."""
    folder = Path(entry.source)
    if not folder.is_dir():
        return f"hub:{entry.source}@{entry.revision or 'main'}"
    return folder_fingerprint(folder, ("*.safetensors", "tokenizer.json", "config.json"))


def predictor_fingerprint(entry: ModelEntry, folder: str | None = None) -> str | None:
    """SHA-256 over the weights of the importance head, None where there is no local one."""
    path = Path(folder or entry.predictor or Path(entry.source) / "importance")
    return folder_fingerprint(path) if path.is_dir() else None


def folder_fingerprint(folder: Path, patterns: tuple[str, ...] = ("*.safetensors",)) -> str:
    """SHA-256 over names and contents of the matching files of a folder."""
    digest = hashlib.sha256()
    for file in sorted(f for pattern in patterns for f in folder.glob(pattern)):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def load_model(entry: ModelEntry, device: str | None = None):
    """Load weights (safetensors only, no remote code) and tokenizer; returns `(model, tokenizer)`.

    Raises:
        KvreproError: the folder or Hub entry cannot be read; says what was tried.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    common = {"revision": entry.revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(entry.source, **common)
        model = AutoModelForCausalLM.from_pretrained(
            entry.source, dtype=entry.dtype if entry.dtype == "auto" else getattr(torch, entry.dtype),
            use_safetensors=True, **common,
        )  # fmt: skip
    except (OSError, SafetensorError) as error:
        raise KvreproError(
            f"model {entry.name!r} cannot be loaded from {entry.source!r}: {error}\n"
            "Give a folder with config.json, *.safetensors and the tokenizer files, or check the network."
        ) from error
    return model.to(device).eval(), tokenizer
