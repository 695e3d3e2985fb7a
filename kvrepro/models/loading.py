"""Load a model for inference: safetensors only, no remote code, memory checked first, every failure with its fix."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import KvreproError
from .checkpoint_files import check_folder
from .memory import check_fits
from .table import FETCHED, MODELS, ModelEntry, model_entry


def load_model(model: str | Path | ModelEntry, device: str | None = None):
    """Load weights (safetensors only, no remote code) and tokenizer; returns `(model, tokenizer)`.

    Args:
        model: a name of `kvrepro list models`, a folder, a Hub id `OWNER/NAME[@REVISION]`, or a row of the table.

    Memory is checked first, from the sizes that the checkpoint's configuration gives.

    Raises:
        KvreproError: no such folder, id or revision, no network, no access, files missing, pickle weights only,
            too little memory, a package missing; says what to do.
        UnknownNameError: a name that is none of these.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    entry = _entry(model)
    device = device or default_device()
    _check_source(entry)
    check_fits(entry, device)
    common = {"revision": entry.revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(entry.source, **common)
        loaded = AutoModelForCausalLM.from_pretrained(
            entry.source, dtype=entry.dtype if entry.dtype == "auto" else getattr(torch, entry.dtype),
            use_safetensors=True, **_placement(entry, device), **common,
        )  # fmt: skip
    except (OSError, SafetensorError, ImportError) as error:
        raise KvreproError(_explained(entry, error)) from error
    if not hasattr(loaded, "hf_device_map"):
        loaded = loaded.to(device)
    return loaded.eval(), tokenizer


def _entry(model: object) -> ModelEntry:
    if isinstance(model, ModelEntry):
        return model
    if isinstance(model, str | Path):
        return model_entry(str(model))
    raise KvreproError(
        f"model={model!r}: expected a name of `kvrepro list models`, a folder, a Hub id OWNER/NAME[@REVISION], or what "
        "kvrepro.model_entry gives"
    )


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

    Raises:
        KvreproError: what `load_model` would raise for weights that are missing or meant for another device.
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
        raise KvreproError(_explained(entry, error)) from error
    if constants.HF_HUB_OFFLINE:
        # what is missing of a copy cannot be fetched
        check_folder(folder)


def _check_source(entry: ModelEntry) -> None:
    """Find what is missing in a folder before anything is read."""
    row = MODELS.get(entry.name)
    if entry.is_folder:
        check_folder(Path(entry.source))
    elif row is not None and row.source.startswith(FETCHED):
        raise KvreproError(
            f"model {entry.name!r} is not on this machine: run `kvrepro fetch {row.source.removeprefix(FETCHED)}` "
            f"(expected in {entry.source})"
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

        chosen["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if entry.quantisation == "8bit"
            else BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16)
        )
    return chosen


def _explained(entry: ModelEntry, error: BaseException) -> str:
    """What went wrong in the user's terms, from the types in the chain of causes."""
    from huggingface_hub import errors as hub

    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__

    def met(*kinds: type[BaseException]) -> bool:
        return any(isinstance(e, kinds) for e in chain)

    where = f"model {entry.name!r} cannot be loaded from {entry.source!r}"
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if met(hub.GatedRepoError):
        return (
            f"{where}: access is restricted. Accept the terms at https://huggingface.co/{entry.source}, then log in "
            "with `hf auth login` (or set HF_TOKEN)"
        )
    if met(hub.RepositoryNotFoundError):
        return (
            f"{where}: the Hub has no such model (or it is private). Check the spelling OWNER/NAME; if a folder was "
            f"meant, {Path(entry.source).expanduser().resolve()} does not exist. Names: kvrepro list models"
        )
    if met(hub.RevisionNotFoundError):
        return (
            f"{where}: it has no revision {entry.revision!r}. Give a commit, tag or branch that exists "
            "(OWNER/NAME@REVISION), or leave the revision out for the newest"
        )
    if met(hub.LocalEntryNotFoundError, hub.OfflineModeIsEnabled, ConnectionError):
        return (
            f"{where}: no network, or offline mode, and revision {entry.revision or 'main'} is not in the local cache. "
            f"On a machine with network run `hf download {entry.source}"
            f"{f' --revision {entry.revision}' if entry.revision else ''}` and copy the folder (HF_HOME), or give the "
            "model as a folder"
        )
    if met(ImportError):
        extra = "models" if entry.quantisation is None else "quantised"
        return f"{where}: {text.rstrip('.')}. Install the optional packages: pip install 'kvrepro[{extra}]'"
    if "safetensors" in text:
        return f"{where}: {text} Only safetensors weights are read (pickle weights can run code): convert them first"
    return (
        f"{where}: {text}\nGive a folder with config.json, *.safetensors and the tokenizer files, or check the network"
    )
