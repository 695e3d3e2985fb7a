"""Run one cell: model, benchmark, method and budget in; graded records and a manifest out."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ..bars import in_notebook, progress_bar
from ..benchmarks.problem import Problem
from ..benchmarks.prompts import prompt_hash
from ..benchmarks.table import load_with_origin
from ..engine.engine import Engine
from ..engine.generate import end_token_ids
from ..engine.observer import KeptPositions
from ..engine.requests import Completion, Request
from ..errors import KvreproError
from ..files import write_json
from ..methods.base import EvictionMethod
from ..models.identity import predictor_fingerprint, weights_fingerprint
from ..models.loading import load_model, resolved_revision
from ..models.table import model_entry
from ..models.tokens import ThinkTags, opened_by_us, render_prompt, reply_parts
from ..paths import scheduler_job
from .config import CellConfig
from .folder import MANIFEST, RECORDS, read_manifest
from .gathering import graded, manifest_of, write_records
from .gpus import claimed_gpus
from .parts import Part
from .preflight import check_cells
from .provenance import provenance
from .replies import Key, OwnFiles, Replies, remove_files
from .resolution import loaded_method


class _Clock:
    """When a run started, and how long it has taken."""

    def __init__(self) -> None:
        self.started, self._since = _now(), time.monotonic()

    def so_far(self) -> dict[str, Any]:
        """`ended` as of now and `wall_s`, seconds."""
        return {"ended": _now(), "wall_s": time.monotonic() - self._since}


def run_cell(config: CellConfig, folder: str | Path, *, device: str | None = None, threads: int = 1) -> dict[str, Any]:
    """Generate, grade and write one cell into `folder`; returns the manifest.

    Replies are appended to a file as they finish, so a killed run goes on where it stopped, and runs of its parts
    (`run_shard`) have made theirs; whoever calls has waited for them (`wait_for_parts`). Where none is missing no model
    is loaded. A folder with a manifest is complete and is only read.

    Raises:
        KvreproError: the request cannot be met (prompt beyond the budget, missing predictor, ...).
        RunError: files of an earlier run cannot be read.
    """
    folder = Path(folder)
    if (manifest := _graded(folder, config)) is not None:
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    clock = _Clock()
    torch.set_num_threads(threads)
    problems, origin = load_with_origin(config.benchmark, config.n_problems, config.prompt_style)
    keys, replies = _keys(config, problems), Replies.found(folder, config.cell_id)
    runs, resumed, missing = replies.runs, len(replies.places), replies.missing(keys)
    if missing or not any("decoder" in run for run in runs):
        own = _make_replies(config, folder, problems, missing, None, device, clock)
        replies = Replies.found(folder, config.cell_id)
    else:
        own = {**_whereabouts("cpu"), "started": clock.started}
    records, digest = write_records(folder, config, problems, keys, replies)
    runs = [*runs, {**own, **clock.so_far(), "replies": len(missing)}]
    manifest = manifest_of(config, problems, origin, records, runs)
    manifest |= {"resumed_records": resumed, "records_sha256": digest}
    write_json(folder / MANIFEST, manifest)
    remove_files(folder)
    return manifest


def run_shard(
    config: CellConfig,
    folder: str | Path,
    part: Part,
    *,
    device: str | None = None,
    threads: int = 1,
    n_gpus: int = 1,
) -> dict[str, int]:
    """Make the replies of one part of a cell that no run has made; `run_cell` gathers the parts.

    Whoever calls holds the part (`claimed_part`).

    Args:
        folder: where the unfinished cell lies.
        n_gpus: devices to hold while it decodes (`claimed_gpus`); none where the part is there already.

    Returns:
        How many replies the part has (`replies`), and how many of them were `made` now.

    Raises:
        As `run_cell`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    problems, _ = load_with_origin(config.benchmark, config.n_problems, config.prompt_style)
    mine = part.take(_keys(config, problems))
    if _graded(folder, config) is not None:
        # by a run that was killed before it put the cell in its place
        return {"replies": len(mine), "made": 0}
    if missing := Replies.found(folder, config.cell_id).missing(mine):
        with claimed_gpus(n_gpus):
            # waiting for a device is no work
            _make_replies(config, folder, problems, missing, part, device, _Clock())
    return {"replies": len(mine), "made": len(missing)}


def _keys(config: CellConfig, problems: Sequence[Problem]) -> list[Key]:
    return [(problem.problem_id, sample) for problem in problems for sample in range(config.n_samples)]


def _now() -> str:
    # runs of a cell are ordered by when they started
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _make_replies(
    config: CellConfig,
    folder: Path,
    problems: list[Problem],
    keys: Iterable[Key],
    part: Part | None,
    device: str | None,
    clock: _Clock,
) -> dict[str, Any]:
    """Generate the replies of these keys into files of this run; returns what the run says of itself at its end."""
    check_cells([config], device)
    entry = model_entry(config.model)
    model, tokenizer = load_model(entry, device)
    engine, requests = prepare_cell(config, model, tokenizer, problems)
    # loading takes minutes, in which a method's file can be edited
    config.check_unchanged()
    facts = {
        **_whereabouts(str(model.device)),
        "started": clock.started,
        "method": _method_row(config, engine.method),
        "decoder": engine.decoder.name,
        "batch_invariant": engine.decoder.batch_invariant,
        "thought": _thought_row(engine.think, tokenizer, problems[0].question),
        "weights": weights_fingerprint(entry),
        "revision": resolved_revision(entry),
        "stand_in": getattr(model.config, "kvrepro_stand_in", None),
        "predictor": predictor_fingerprint(entry, config.predictor),
        "prompts_sha256": prompt_hash(tokenizer.decode(r.prompt_ids) for r in requests),
    }
    own = OwnFiles(folder, config.cell_id, part, facts)

    def progress() -> dict[str, Any]:
        peak = {"cuda_peak_bytes": torch.cuda.max_memory_allocated(model.device)} if model.device.type == "cuda" else {}
        captured = engine.decoder.captures  # until a capture fails
        graph = {"captured": captured, "observe_in_graph": captured and engine.method.observes_on_device}
        return {"stats": dataclasses.asdict(engine.stats), **graph, **clock.so_far(), **peak}

    wanted = set(keys)
    mine = requests if part is None else part.take(requests)
    waiting = [r for r in mine if (r.problem_id, r.sample_id) in wanted]
    title = "-".join(map(str, filter(None, (config.method_name, config.budget)))) + (f" {part}" if part else "")
    with progress_bar(total=len(mine), initial=len(mine) - len(waiting), desc=title) as bar:
        for completion in engine.run(waiting):
            # a killed run leaves its times with its last reply
            own.append(_completion_row(completion, tokenizer, engine.think), progress())
            bar.update()
    own.end(progress())
    if in_notebook():
        print(f"{title}: {len(waiting)} replies in {own.facts['wall_s']:.0f} s")
    return own.facts


def _whereabouts(device: str) -> dict[str, Any]:
    """Where a run runs and what it runs on."""
    return {"host": platform.node(), "pid": os.getpid(), "job": scheduler_job(), **provenance(device)}


def prepare_cell(
    config: CellConfig, model, tokenizer, problems: list[Problem], **changes: Any
) -> tuple[Engine, list[Request]]:
    """The engine and the requests of a cell, samples of a problem side by side.

    Args:
        changes: arguments of the engine that shall differ from the cell's.
    """
    think = model_entry(config.model).tags(tokenizer)
    engine = Engine(
        model,
        loaded_method(config, model, tokenizer),
        think,
        end_token_ids(model, tokenizer),
        **{
            "sampling": config.sampling,
            "batch_rows": config.batch_rows,
            "max_new_tokens": config.max_new_tokens,
            "seed": config.seed,
            **changes,
        },
    )
    prompts = {p.problem_id: tuple(render_prompt(tokenizer, p.question, think)) for p in problems}
    requests = [Request(p.problem_id, s, prompts[p.problem_id]) for p in problems for s in range(config.n_samples)]
    return engine, requests


def replay_cell(config: CellConfig, model, tokenizer, keys: Sequence[Key]) -> list[tuple[Completion, dict[str, Any]]]:
    """Some replies of a cell again, with the positions that each eviction kept, and their records.

    Noise is keyed by seed, problem and sample, so these are the replies of the cell where its manifest says
    `batch_invariant`; elsewhere they may part where two tokens are nearly as likely, for the batch is another one.

    Args:
        keys: `(problem_id, sample_id)` of the replies, each once.

    Returns:
        `(completion, record)` in the order of the keys; `KvreproError` where the cell has no such reply.
    """
    problems, _ = load_with_origin(config.benchmark, config.n_problems, config.prompt_style)
    known = {p.problem_id: p for p in problems}
    if wrong := [(name, sample) for name, sample in keys if name not in known or not 0 <= sample < config.n_samples]:
        names = f"{problems[0].problem_id} to {problems[-1].problem_id}"
        raise KvreproError(f"no reply {wrong[0]}: the cell has problems {names}, samples 0 to {config.n_samples - 1}")
    asked = [known[name] for name in dict.fromkeys(name for name, _ in keys)]
    engine, requests = prepare_cell(config, model, tokenizer, asked, observer=KeptPositions())
    wanted = [r for r in requests if (r.problem_id, r.sample_id) in set(keys)]
    done = {(c.request.problem_id, c.request.sample_id): c for c in engine.run(wanted)}
    completions = [done[key] for key in keys]
    rows = [_completion_row(completion, tokenizer, engine.think) for completion in completions]
    return list(zip(completions, graded(problems, rows, config), strict=True))


def _graded(folder: Path, config: CellConfig) -> dict[str, Any] | None:
    """The manifest of a cell that is made and graded, None where it is not; of another cell it is an error."""
    if not ((folder / MANIFEST).is_file() and (folder / RECORDS).is_file()):
        return None
    manifest = read_manifest(folder)
    if (found := manifest["cell_id"]) != config.cell_id:
        raise KvreproError(
            f"{folder} holds cell {found}, asked for is {config.cell_id}: give another folder or delete this one"
        )
    return manifest


def _completion_row(completion: Completion, tokenizer, think: ThinkTags) -> dict[str, Any]:
    text, answer_start = reply_parts(tokenizer, completion.token_ids, completion.n_closed, think)
    return {
        "problem_id": completion.request.problem_id,
        "sample_id": completion.request.sample_id,
        "status": completion.status,
        "text": text,
        "answer_start": answer_start,
        "n_prompt_tokens": len(completion.request.prompt_ids),
        "n_thinking_tokens": completion.n_thinking_tokens,
        "n_answer_tokens": completion.n_answer_tokens,
        "evictions": completion.evictions,
        "peak_tokens": completion.peak_tokens,
        "pin_overflow_tokens": completion.pin_overflow_tokens,
    }


def _thought_row(think: ThinkTags, tokenizer, question: str) -> dict[str, Any] | None:
    """The tags, and how the thought was opened; None for a model that does not think."""
    if think.text is None:
        return None
    return {
        "start": think.start,
        "end": think.text,
        "open_thought": think.open_thought or "template",
        "start_appended": opened_by_us(tokenizer, question, think),
    }


def _method_row(config: CellConfig, method: EvictionMethod) -> dict[str, Any]:
    """The method as it ran: every switch and option, and what its schedule came to."""
    switches = {f.name: getattr(method, f.name) for f in dataclasses.fields(method) if f.name != "schedule"}
    row = {"name": method.name, "source": method.source, "protocol": config.protocol}
    row |= {name: value for name, value in switches.items() if isinstance(value, str | int | float | bool | None)}
    if (schedule := method.schedule) is not None:
        kept = method.kept_tokens(config.protocol)
        row |= {
            "kept_tokens": kept,
            "slack_tokens": schedule.peak_tokens - config.budget,
            "window": schedule.window,
            "period_steps": None if kept is None else schedule.period_steps,
        }
    return row
