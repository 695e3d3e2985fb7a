"""Models by name: the two that the repository ships, those of the paper, a fetched one, and any folder or Hub id."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import KvreproError, UnknownNameError, check_known
from ..paths import CHECKPOINTS, fetched_folder, user_models_file
from .failures import check_folder
from .tokens import OPEN_THOUGHT, THINK_END_TEXT, ThinkTags, opening_tag

_KNOWN_VALUES = {
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "quantisation": (None, "8bit", "4bit"),
    "device_map": (None, "auto"),
    "open_thought": (None, *OPEN_THOUGHT),
}
FETCHED = "fetched:"
# what R1's model card and DynTS' recipes use (docs/benchmarks.md#sampling)
_R1_GENERATION = MappingProxyType({"temperature": 0.6, "top_p": 0.95, "top_k": 20})
_DEEPSEEK = "deepseek-ai/DeepSeek-R1-Distill-"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class ModelEntry:
    """One row of the model table.

    Attributes:
        title: what figures print.
        source: a folder, a Hub id, or `fetched:NAME` for a model that `kvrepro fetch NAME` puts into the cache.
        dtype: of the weights and of the KV cache; `auto` is what the checkpoint says.
        revision: commit of the Hub repository; None is its newest, and the manifest records which one that was.
        predictor: folder or Hub id of an importance head; None looks for `importance/` in the model's own folder.
        think_end: text that closes the thought; None is a model that has none.
        think_start: text that opens it; None is `think_end` without its `/`.
        open_thought: what happens where the chat template does not end a prompt with `think_start`: `always` appends
            it and a newline, `template` leaves the prompt to the template, for models that write the tag themselves.
            None, of models without a row, of which nothing is known, is `template` with a warning.
        generation: sampling parameters that a profile or `kvrepro run` takes when it names none.
        prompt_style: `dynts` or `deepseek`; for profiles that name none.
        separators: token texts that count as separators; None takes those of the method (`methods.learned.loading`).
        quantisation: None, `8bit` or `4bit` weights (bitsandbytes, through transformers).
        device_map: None for one device, `auto` to spread the layers over all visible GPUs.
    """

    name: str
    title: str = field(hash=False)
    source: str
    dtype: str
    revision: str | None = None
    predictor: str | None = None
    think_start: str | None = None
    think_end: str | None = THINK_END_TEXT
    open_thought: str | None = "always"
    generation: Mapping[str, Any] = field(default_factory=dict, hash=False)
    prompt_style: str = "dynts"
    separators: tuple[str, ...] | None = field(default=None, hash=False)
    quantisation: str | None = None
    device_map: str | None = None

    def __post_init__(self) -> None:
        for name, known in _KNOWN_VALUES.items():
            if (given := getattr(self, name)) not in known:
                raise KvreproError(f"model {self.name!r}: {name}={given!r}; known are {', '.join(map(str, known))}")
        if self.open_thought == "always" and self.think_end is not None and self.opening_tag is None:
            raise KvreproError(
                f"model {self.name!r}: think_end={self.think_end!r} has no `/`, so its opening tag must be named "
                "(think_start), or prompts left to the chat template (open_thought: template)"
            )

    @property
    def opening_tag(self) -> str | None:
        """The text that opens the thought; None for a model that has none, or where it is not known."""
        return opening_tag(self.think_end, self.think_start)

    def tags(self, tokenizer) -> ThinkTags:
        """The tags in the model's tokenizer; `KvreproError` where it or the chat template does not know them."""
        return ThinkTags.of(tokenizer, self.think_end, self.think_start, self.open_thought)

    @property
    def is_folder(self) -> bool:
        """True where `source` is a folder on this machine."""
        return Path(self.source).is_dir()

    @property
    def reference(self) -> str:
        """What names this model in a cell: its name, a folder, or `id@revision`."""
        if self.name in model_table():
            return self.name
        return f"{self.source}@{self.revision}" if self.revision else self.source


def _r1(name: str, title: str, hub_id: str, commit: str, open_thought: str = "always") -> ModelEntry:
    generation = _R1_GENERATION
    return ModelEntry(name, title, hub_id, "bfloat16", commit, generation=generation, open_thought=open_thought)


_SMOLLM2_GENERATION = MappingProxyType({"temperature": 0.2, "top_p": 0.9, "top_k": 50})
# The commits are those that public repositories pin for these ids; the Hub itself cannot be reached from here.
_ROWS = (
    ModelEntry("tiny-r1-llama", "Tiny-R1-Llama", str(CHECKPOINTS / "tiny-r1-llama"), "float32"),
    ModelEntry("tiny-r1-qwen", "Tiny-R1-Qwen", str(CHECKPOINTS / "tiny-r1-qwen"), "float32"),
    ModelEntry(
        *("smollm2-135m", "SmolLM2-135M", f"{FETCHED}smollm2", "float32"),
        think_end=None,
        generation=_SMOLLM2_GENERATION,
    ),
    _r1("r1-llama", "R1-Llama", f"{_DEEPSEEK}Llama-8B", "6a6f4aa4197940add57724a7707d069478df56b1"),
    _r1("r1-qwen", "R1-Qwen", f"{_DEEPSEEK}Qwen-7B", "916b56a44061fd5cd7d6a8fb632557ed4f724f60"),
    _r1("r1-qwen-1.5b", "R1-Qwen-1.5B", f"{_DEEPSEEK}Qwen-1.5B", "ad9f0ae0864d7fbcd1cd905e3c6c5b069cc8b562"),
    # Qwen3's template leaves the opening tag to the model, which writes it as its first token
    _r1("qwen3-8b", "Qwen3-8B", "Qwen/Qwen3-8B", "b968826d9c46dd6066d109eabc6255188de91218", "template"),
    _r1("qwen3-4b", "Qwen3-4B", "Qwen/Qwen3-4B", "1cfa9a7208912126459214e8b04321603b3df60c", "template"),
)
MODELS: dict[str, ModelEntry] = {entry.name: entry for entry in _ROWS}


def model_table() -> dict[str, ModelEntry]:
    """The shipped rows, changed and extended by the user's own file (`KVREPRO_MODELS`, else `models.yaml`).

    Raises `KvreproError` where that holds something else than rows of known fields.
    """
    path = user_models_file()
    return MODELS if path is None else {**MODELS, **_user_rows(path)}


def model_entry(name: str) -> ModelEntry:
    """A row of the table, or one made for a folder or a Hub id (`OWNER/NAME[@REVISION]`); else `UnknownNameError`."""
    table = model_table()
    if name in table:
        entry = table[name]
        if entry.source.startswith(FETCHED):
            return replace(entry, source=str(fetched_folder(entry.source.removeprefix(FETCHED))))
        return entry
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return ModelEntry(folder.name, folder.name, str(folder.resolve()), "auto", open_thought=None)
    hub_id, _, revision = name.partition("@")
    if folder.is_dir() and folder.name != name:
        check_folder(folder)
    if HUB_ID.fullmatch(hub_id):
        title = hub_id.split("/")[1]
        return ModelEntry(title, title, hub_id, "auto", revision or None, open_thought=None)
    known = [*table, "a folder with config.json, weights and tokenizer", "a Hub id OWNER/NAME[@REVISION]"]
    raise UnknownNameError("model", name, known)


def generation_defaults(name: object) -> dict[str, Any]:
    """Sampling parameters and prompt style that the model's row brings; a caller's own values go before them."""
    entry = model_table().get(name) if isinstance(name, str) else None
    if entry is None:
        return {}
    style = {} if entry.prompt_style == "dynts" else {"prompt_style": entry.prompt_style}
    return {**entry.generation, **style}


def fetched_name(entry: ModelEntry) -> str | None:
    """The name under which `kvrepro fetch` makes this model; None for a model from elsewhere."""
    row = MODELS.get(entry.name)
    if row is None or not row.source.startswith(FETCHED):
        return None
    name = row.source.removeprefix(FETCHED)
    return name if entry.source in (row.source, str(fetched_folder(name))) else None


def predictor_source(entry: ModelEntry, given: str | None = None) -> str | None:
    """The importance head's folder or Hub id: the cell's own, the row's, or `importance/` in the model's folder."""
    own = Path(entry.source) / "importance"
    return given or entry.predictor or (str(own) if own.is_dir() else None)


def _user_rows(path: Path) -> dict[str, ModelEntry]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise KvreproError(f"{path} cannot be read as a model table: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(row, dict) for row in content.values()):
        raise KvreproError(f"{path}: expected `name: {{source: ..., dtype: ...}}` per model")
    known = {f.name for f in fields(ModelEntry)} - {"name"}
    rows = {}
    for name, row in content.items():
        check_known(f"field of model {name!r} in {path.name}", known, *row)
        if "separators" in row:
            row["separators"] = tuple(row["separators"])
        if name in MODELS:
            rows[name] = replace(MODELS[name], **row)
        elif "source" not in row:
            raise KvreproError(f"{path}: model {name!r} has no `source` (a folder or a Hub id)")
        else:
            rows[name] = ModelEntry(**{"name": name, "title": name, "dtype": "auto", **row})
    return rows
