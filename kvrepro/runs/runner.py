"""Run one cell: model, benchmark, method and budget in; graded records and a manifest out."""

from __future__ import annotations

import dataclasses
import sys
import time
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..benchmarks.problem import Problem
from ..benchmarks.prompts import prompt_hash, rows_hash
from ..benchmarks.table import benchmark_entry, load_with_origin
from ..engine.engine import Engine
from ..engine.generate import end_token_ids
from ..engine.observer import KeptPositions
from ..engine.requests import Completion, Request, RunStats
from ..errors import KvreproError
from ..files import append_row, rows_so_far, write_json, write_rows
from ..graders import REVISION
from ..methods.base import EvictionMethod
from ..models.identity import predictor_fingerprint, weights_fingerprint
from ..models.loading import load_model, resolved_revision
from ..models.table import model_entry
from ..models.tokens import ThinkTags, opened_by_us, render_prompt, reply_parts
from ..scores.metrics import summarise
from .config import CellConfig
from .folder import COMPLETIONS, MANIFEST, RECORDS, read_manifest
from .grading import regrade
from .identity import ENGINE_REVISION
from .preflight import check_cells
from .provenance import provenance
from .resolution import loaded_method

# what a reply carries only until its cell is complete
_WORKING_FIELDS = ("cell_id", "session", "stats", "grader")


def run_cell(config: CellConfig, folder: str | Path, *, device: str | None = None, threads: int = 1) -> dict[str, Any]:
    """Generate, grade and write one cell into `folder`; returns the manifest.

    Replies are appended to a file as they finish, so a killed run goes on where it stopped. A folder with a
    manifest is complete and is only read.

    Raises:
        KvreproError: the request cannot be met (prompt beyond the budget, missing predictor, ...).
        RunError: files of an earlier run cannot be read.
    """
    folder = Path(folder)
    if (folder / MANIFEST).is_file() and (folder / RECORDS).is_file():
        manifest = read_manifest(folder)
        _same_cell(folder, manifest["cell_id"], config)
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(threads)
    started = time.monotonic()
    started_at = _now()
    problems, origin = load_with_origin(config.benchmark, config.n_problems, config.prompt_style)
    check_cells([config], device)
    entry = model_entry(config.model)
    model, tokenizer = load_model(entry, device)
    engine, requests = prepare_cell(config, model, tokenizer, problems)
    done = _finished(folder / COMPLETIONS, config)
    resumed = len(done)
    stats = _generate(config, engine, tokenizer, requests, done, folder / COMPLETIONS)
    records = _graded(problems, [done[r.problem_id, r.sample_id] for r in requests], config)
    write_rows(folder / RECORDS, records)
    manifest = {
        "cell_id": config.cell_id,
        "protocol": ENGINE_REVISION,
        "config": config.resolved(),
        "method": _method_row(config, engine.method),
        "decoder": engine.decoder.name,
        "batch_invariant": engine.decoder.batch_invariant,
        "captured": engine.decoder.captures,
        "observe_in_graph": engine.decoder.captures and engine.method.observes_on_device,
        "thought": _thought_row(engine.think, tokenizer, problems[0].question),
        "n_records": len(records),
        "resumed_records": resumed,
        "grader_revision": REVISION,
        "score": dataclasses.asdict(summarise(records)),
        "status": dict(Counter(record["status"] for record in records)),
        "stats": {**dataclasses.asdict(stats), "decode_s": stats.decode_s, "decode_tps": stats.decode_tps},
        "evictions": sum(row["evictions"] for row in done.values()),
        "kv_tokens_peak": max(row["peak_tokens"] for row in done.values()),
        "pin_overflow_tokens": sum(row["pin_overflow_tokens"] for row in done.values()),
        "weights": weights_fingerprint(entry),
        "revision": resolved_revision(entry),
        "stand_in": getattr(model.config, "kvrepro_stand_in", None),
        "predictor": predictor_fingerprint(entry, config.predictor),
        "rows_sha256": rows_hash(problems),
        "benchmark": origin,
        "prompts_sha256": prompt_hash(tokenizer.decode(r.prompt_ids) for r in requests),
        **provenance(str(model.device)),
        "started": started_at,
        "ended": _now(),
        "wall_s": time.monotonic() - started,
    }
    write_json(folder / MANIFEST, manifest)
    (folder / COMPLETIONS).unlink(missing_ok=True)
    return manifest


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _generate(
    config: CellConfig,
    engine: Engine,
    tokenizer,
    requests: list[Request],
    done: dict[tuple[str, int], dict[str, Any]],
    path: Path,
) -> RunStats:
    """Generate what is not `done`, add it there and to the file; returns the stats of this and all earlier sessions."""
    session = uuid.uuid4().hex
    waiting = [r for r in requests if (r.problem_id, r.sample_id) not in done]
    title = f"{config.method}-{config.budget}"
    with tqdm(total=len(requests), initial=len(done), desc=title, file=sys.stderr) as bar:
        for completion in engine.run(waiting):
            row = _completion_row(completion, tokenizer, engine.think)
            # a killed run leaves its times with its last reply
            row |= {"cell_id": config.cell_id, "session": session, "stats": dataclasses.asdict(engine.stats)}
            append_row(path, row)
            done[row["problem_id"], row["sample_id"]] = row
            bar.update()
    # the last stats that each session wrote
    last = {row["session"]: row["stats"] for row in sorted(done.values(), key=lambda r: r["stats"]["steps"])}
    return RunStats.combined([*last.values(), *([] if session in last else [dataclasses.asdict(engine.stats)])])


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


def replay_cell(config: CellConfig, model, tokenizer, n_problems: int) -> list[tuple[Completion, dict[str, Any]]]:
    """The first replies of a cell again, with the positions that each eviction kept, and their records.

    Noise is keyed by seed, problem and sample, so these are the replies of the cell where its manifest says
    `batch_invariant`; elsewhere they may part where two tokens are nearly as likely, for the batch is another one.

    Args:
        n_problems: replies: the first sample of each of the first so many problems.

    Returns:
        `(completion, record)` in the order of the problems.
    """
    problems, _ = load_with_origin(config.benchmark, config.n_problems, config.prompt_style)
    problems = problems[:n_problems]
    engine, requests = prepare_cell(config, model, tokenizer, problems, observer=KeptPositions())
    done = {c.request.problem_id: c for c in engine.run([r for r in requests if r.sample_id == 0])}
    completions = [done[p.problem_id] for p in problems]
    rows = [_completion_row(completion, tokenizer, engine.think) for completion in completions]
    return list(zip(completions, _graded(problems, rows, config), strict=True))


def _same_cell(folder: Path, found: str, config: CellConfig) -> None:
    if found != config.cell_id:
        raise KvreproError(
            f"{folder} holds cell {found}, asked for is {config.cell_id}: give another folder or delete this one"
        )


def _finished(path: Path, config: CellConfig) -> dict[tuple[str, int], dict[str, Any]]:
    """Replies that an earlier, killed run left behind."""
    rows = rows_so_far(path)
    for row in rows:
        _same_cell(path.parent, row.get("cell_id", "without a name"), config)
    return {(row["problem_id"], row["sample_id"]): row for row in rows}


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


def _graded(problems: list[Problem], rows: list[dict[str, Any]], config: CellConfig) -> list[dict[str, Any]]:
    """Rows with gold, extracted answer, verdict and the rule that decided, without what only a run needs."""
    golds = {p.problem_id: p.gold for p in problems}
    options = {p.problem_id: p.options for p in problems}
    rows = [{**row, "gold": golds[row["problem_id"]]} for row in rows]
    graded = regrade(rows, benchmark_entry(config.benchmark).kind, workers=1, options=options)
    return [{name: value for name, value in row.items() if name not in _WORKING_FIELDS} for row in graded]


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
