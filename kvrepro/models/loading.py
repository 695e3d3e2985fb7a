"""Load a model for inference: safetensors only, no remote code, memory checked first, every failure with its fix."""

from __future__ import annotations

from pathlib import Path

import torch

from ..bars import quiet_loading
from ..errors import KvreproError
from .failures import check_folder, explained
from .memory import check_fits
from .table import ModelEntry, fetched_name, model_entry


def load_model(model: str | Path | ModelEntry, device: str | None = None):
    """Load weights (safetensors only, no remote code) and tokenizer; returns `(model, tokenizer)`.

    Args:
        model: a name of `kvrepro list models`, a folder, a Hub id `OWNER/NAME[@REVISION]`, or a row of the table.

    Memory is checked first, from the sizes that the checkpoint's configuration gives.

    Raises:
        KvreproError: no such name, folder, id or revision, no network, no access, files missing, pickle weights only,
            too little memory, a package missing; says what to do.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not isinstance(model, str | Path | ModelEntry):
        raise KvreproError(
            f"model={model!r}: expected a name of `kvrepro list models`, a folder, a Hub id OWNER/NAME[@REVISION], or "
            "what kvrepro.model_entry gives"
        )
    entry = model if isinstance(model, ModelEntry) else model_entry(str(model))
    device = device or default_device()
    _check_source(entry)
    check_fits(entry, device)
    common = {"revision": entry.revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(entry.source, **common)
        dtype = entry.dtype if entry.dtype == "auto" else getattr(torch, entry.dtype)
        common |= {"dtype": dtype, "use_safetensors": True}
        with quiet_loading():
            loaded = AutoModelForCausalLM.from_pretrained(entry.source, **_placement(entry, device), **common)
    except (OSError, SafetensorError, ImportError) as error:
        raise KvreproError(explained(entry, error)) from error
    if not hasattr(loaded, "hf_device_map"):
        loaded = loaded.to(device)
    return loaded.eval(), tokenizer


def default_device() -> str:
    """The first GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolved_revision(entry: ModelEntry) -> str | None:
    """Commit of the Hub repository that was loaded, None for a folder; read off the local copy, so after loading."""
    from huggingface_hub import try_to_load_from_cache

    if entry.is_folder:
        return None
    found = try_to_load_from_cache(entry.source, "config.json", revision=entry.revision)
    # the library keeps each commit in a folder of its name
    return Path(found).parent.name if isinstance(found, str) else None


def check_available(entry: ModelEntry, device: str | None = None) -> None:
    """Look for the weights without loading them; of a Hub model that is not here yet, the configuration is fetched.

    Raises `KvreproError` as `load_model` does for weights that are missing or meant for another device.
    """
    from huggingface_hub import constants, hf_hub_download, snapshot_download

    _check_source(entry)
    _placement(entry, device or default_device())
    if entry.is_folder:
        return
    try:
        hf_hub_download(entry.source, "config.json", revision=entry.revision)
        folder = Path(snapshot_download(entry.source, revision=entry.revision, local_files_only=True))
    except OSError as error:
        raise KvreproError(explained(entry, error)) from error
    if constants.HF_HUB_OFFLINE:
        # what is missing of a copy cannot be fetched
        check_folder(folder)


def _check_source(entry: ModelEntry) -> None:
    """Find what is missing in a folder before anything is read."""
    if entry.is_folder:
        check_folder(Path(entry.source))
    elif (name := fetched_name(entry)) is not None:
        raise KvreproError(
            f"model {entry.name!r} is not on this machine: run `kvrepro fetch {name}` (expected in {entry.source})"
        )
    elif Path(entry.source).is_absolute():
        raise KvreproError(f"model {entry.name!r}: the folder {entry.source} does not exist")


def _placement(entry: ModelEntry, device: str) -> dict[str, object]:
    """Arguments of `from_pretrained` for quantised weights and for several GPUs."""
    if entry.quantisation is None and entry.device_map is None:
        return {}
    if not device.startswith("cuda"):
        asked = "device_map=auto" if entry.quantisation is None else f"{entry.quantisation} weights"
        raise KvreproError(f"model {entry.name!r}: {asked} need a GPU, the device is {device}; leave the setting out")
    chosen: dict[str, object] = {"device_map": entry.device_map or {"": device}}
    if entry.quantisation is not None:
        from transformers import BitsAndBytesConfig

        bits = {
            "8bit": {"load_in_8bit": True},
            "4bit": {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16},
        }
        chosen["quantization_config"] = BitsAndBytesConfig(**bits[entry.quantisation])
    return chosen
