"""Label a folder of traces: one forward pass each, resumable, split over processes, stored as a dataset on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..bars import progress_bar
from ..errors import KvreproError
from ..files import replacing, write_atomic
from .trace_attention import label_sequence
from .traces import Trace, outcome_counts

DATASET, PARTS, HIDDEN, HEADS = "dataset", "parts", "hidden", "heads"
# why a trace has no labels; the order of the counts in a manifest
SKIPPED = ("unsound_parts", "other_tokenizer", "nan_labels")


@dataclass(frozen=True)
class LabelOptions:
    """What is stored beside the labels.

    Attributes:
        keep_heads: also keep the means of every layer and query head, `heads/<index>.safetensors`, for figures.
        hidden_dtype: of the cached hidden states of the thinking tokens; `model` is the model's own.
        hidden_tokens: at most so many thinking tokens per trace are cached, evenly spaced; None for all.
            R1-Llama needs 8 KiB a token: 7,000 traces of 4,000 tokens are 229 GB.
    """

    keep_heads: bool = False
    hidden_dtype: str = "model"
    hidden_tokens: int | None = None


@dataclass(frozen=True)
class Workers:
    """This process's share of a distributed run: traces `rank, rank + count, ...`; `wait` is the barrier."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None
    device: str | None = None

    @classmethod
    def of_accelerate(cls) -> Workers:
        """The processes that `accelerate launch` started, one per device."""
        state = require("accelerate").PartialState()
        return cls(state.process_index, state.num_processes, state.wait_for_everyone, str(state.device))

    @property
    def is_main(self) -> bool:
        """True for the process that publishes."""
        return self.rank == 0


def label_traces(
    model,
    traces: Sequence[Trace],
    think_end: tuple[int, ...],
    folder: Path,
    options: LabelOptions,
    workers: Workers = Workers(),
) -> None:
    """Write one part per trace into `folder`, skipping parts that are there already.

    Args:
        think_end: ids of the closing tag in the model's tokenizer; traces must hold them where they say.
    """
    for name in (PARTS, HIDDEN, *([HEADS] if options.keep_heads else [])):
        (folder / name).mkdir(exist_ok=True)
    share = range(workers.rank, len(traces), workers.count)
    for index in progress_bar(share, desc="labels", is_shown=workers.is_main):
        if not (folder / PARTS / f"{index:05d}.json").is_file():
            _label_one(model, traces[index], think_end, folder, index, options)


def unsound(trace: Trace, think_end: tuple[int, ...], vocabulary: int) -> str | None:
    """Why a trace cannot be labelled with this tokenizer, or None."""
    if not trace.is_sound:
        return "unsound_parts"
    if max(trace.token_ids) >= vocabulary or tuple(trace.token_ids[trace.thinking_to : trace.answer_from]) != think_end:
        return "other_tokenizer"
    return None


def _label_one(model, trace: Trace, think_end, folder: Path, index: int, options: LabelOptions) -> None:
    reason = unsound(trace, think_end, model.config.get_text_config(decoder=True).vocab_size)
    if reason is None:
        labelled = label_sequence(model, trace.token_ids, trace.answer_from, keep_heads=options.keep_heads)
        if not (labelled.labels.isfinite().all() and labelled.hidden.isfinite().all()):
            reason = "nan_labels"
    part: dict[str, Any] = {"index": index, "problem_id": trace.problem_id, "skipped": reason}
    if reason is None:
        places = cached_places(trace, options.hidden_tokens)
        hidden = labelled.hidden[places]
        if options.hidden_dtype != "model":
            hidden = hidden.to(getattr(torch, options.hidden_dtype))
        stored = {HIDDEN: {"hidden": hidden.contiguous().cpu(), "places": places}}
        if labelled.head_labels is not None:
            stored[HEADS] = {"head_labels": labelled.head_labels.cpu()}
        for name, tensors in stored.items():
            with replacing(folder / name / f"{index:05d}.safetensors") as beside:
                save_file(tensors, beside)
        part["labels"] = labelled.labels.tolist()
    # the part is written last: a trace without it is labelled again
    write_atomic(folder / PARTS / f"{index:05d}.json", json.dumps(part))


def cached_places(trace: Trace, most: int | None) -> Tensor:
    """Indices of the thinking tokens whose hidden states are cached, ascending int64."""
    n_tokens = trace.thinking_to - trace.thinking_from
    if most is None or n_tokens <= most:
        return torch.arange(trace.thinking_from, trace.thinking_to)
    return trace.thinking_from + torch.linspace(0, n_tokens - 1, most).round().long()


def build_dataset(traces: Sequence[Trace], folder: Path) -> dict[str, dict[str, int]]:
    """Turn the parts into one Hugging Face dataset on disk; returns per split what became of the traces."""
    datasets = require("datasets")
    datasets.disable_progress_bars()
    text, number = datasets.Value("string"), datasets.Value("int32")
    columns = {
        "index": number,
        **dict.fromkeys(("problem_id", "split", "gold", "kind"), text),
        "token_ids": datasets.List(number),
        **dict.fromkeys(("thinking_from", "thinking_to", "answer_from"), number),
        "labels": datasets.List(datasets.Value("float32")),
    }
    outcomes: list[tuple[str, str]] = []
    table: dict[str, list[Any]] = {name: [] for name in columns}
    for index, trace in enumerate(traces):
        part = json.loads((folder / PARTS / f"{index:05d}.json").read_text())
        outcomes.append((trace.split, part["skipped"] or "labelled"))
        if part["skipped"] is None:
            for name, value in {**vars(trace), "index": index, "labels": part["labels"]}.items():
                table[name].append(value)
    datasets.Dataset.from_dict(table, features=datasets.Features(columns)).save_to_disk(str(folder / DATASET))
    return outcome_counts("traces", ("labelled", *SKIPPED), outcomes)


def require(name: str) -> ModuleType:
    """A package that training alone needs, `datasets` or `accelerate`.

    Raises:
        KvreproError: it is not installed; says how to.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise KvreproError(f"training needs the package {name}: pip install 'kvrepro[train]'") from error
