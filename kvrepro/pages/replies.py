"""A cell's page: its parameters and score, and every reply with its question, the wrong ones first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..benchmarks.table import benchmark_entry, is_local, load_problems
from ..figures.reply_pictures import PICTURES
from ..models.table import model_entry
from ..runs.config import CellConfig
from ..runs.folder import MANIFEST, RECORDS, CellFolder, read_manifest, read_records
from ..runs.profiles import Profile
from .site import SELF_CONTAINED, anchor_of, has_stamp, render, stamp_of, write_page

PAGE = "replies.html"
WRONG, RIGHT = "wrong", "right"
# parameters of a cell that its page begins with, where they are set
_SHOWN = (
    "model", "benchmark", "method", "budget", "protocol", "window", "ratio", "evict_every", "options", "temperature",
    "top_p", "top_k", "seed", "max_new_tokens", "prompt_style", "predictor", "judge",
)  # fmt: skip


def write_replies(profile: Profile, config: CellConfig, folder: Path) -> bool:
    """Write the page of a finished cell into `folder/<cell_id>/`.

    Returns:
        False where it was left as it is: nothing that it is made of has changed.
    """
    source, page = CellFolder.of(profile.name, config).path, folder / config.cell_id / PAGE
    files = [(source / name).read_bytes() for name in (RECORDS, MANIFEST)]
    is_known = is_local(config.benchmark)
    stamp = stamp_of(*files, profile.title.encode(), b"%d" % is_known)
    if has_stamp(page, stamp):
        return False
    write_page(page, _html(profile, config, read_manifest(source), read_records(source), stamp))
    return True


def _html(
    profile: Profile, config: CellConfig, manifest: Mapping[str, Any], records: Sequence[Mapping[str, Any]], stamp: str
) -> str:
    questions = {} if all("question" in record for record in records) else _questions(config)
    replies = [_reply(record, questions) for record in records]
    # the sort is stable, so records keep their order among the wrong and among the right
    replies.sort(key=lambda reply: reply["verdict"] == RIGHT)
    n_right = sum(reply["verdict"] == RIGHT for reply in replies)
    budget = "" if config.budget is None else f", {config.budget:,} tokens"
    return render(
        "replies.html.j2",
        title=f"{model_entry(config.model).title}, {config.benchmark}: {config.label}{budget}",
        profile=profile.name,
        profile_title=profile.title,
        cell_id=config.cell_id,
        benchmark=config.benchmark,
        is_gated=benchmark_entry(config.benchmark).is_gated,
        source=benchmark_entry(config.benchmark).source,
        score=_score(manifest),
        held=held_sentence(config, manifest),
        facts=[*_facts(config), *_run_facts(manifest)],
        replies=replies,
        n_right=n_right,
        n_wrong=len(replies) - n_right,
        statuses=Counter(reply["status"] for reply in replies).most_common(),
        pictures=PICTURES,
        root="../" * (config.cell_id.count("/") + 1),
        stamp=stamp,
        policy=SELF_CONTAINED,
    )


@cache
def _rows(benchmark: str, prompt_style: str) -> dict[str, str]:
    return {problem.problem_id: problem.question for problem in load_problems(benchmark, None, prompt_style)}


def _questions(config: CellConfig) -> dict[str, str]:
    """Questions by problem for records that lack them; none where rows would be fetched or must not spread."""
    is_shown = is_local(config.benchmark) and not benchmark_entry(config.benchmark).is_gated
    return _rows(config.benchmark, config.prompt_style) if is_shown else {}


def _reply(record: Mapping[str, Any], questions: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows of one record."""
    text, begin = record["text"], record.get("answer_start")
    is_open = begin is None
    sizes = (("prompt", "n_prompt_tokens"), ("thought", "n_thinking_tokens"), ("answer", "n_answer_tokens"))
    facts = [
        ("gold", record["gold"]),
        ("extracted answer", "none" if record["answer"] is None else record["answer"]),
        ("rule", record.get("rule") or "none"),
        ("status", record["status"]),
        ("tokens", ", ".join(f"{name} {record[key]:,}" for name, key in sizes)),
    ]
    counts = {"evictions": "evictions", "peak_tokens": "most slots held", "pin_overflow_tokens": "pinned, did not fit"}
    # records of earlier versions have fewer of them; what did not fit is told where something did not
    known = {name: record.get(key) for key, name in counts.items()}
    facts += [(name, f"{count:,}") for name, count in known.items() if count or (count == 0 and name == "evictions")]
    return {
        "anchor": anchor_of(record["problem_id"], record["sample_id"]),
        "problem_id": record["problem_id"],
        "sample_id": record["sample_id"],
        "verdict": RIGHT if record["correct"] else WRONG,
        "status": record["status"],
        "answer": "none" if record["answer"] is None else record["answer"],
        "gold": record["gold"],
        "facts": facts,
        "question": record.get("question", questions.get(record["problem_id"])),
        "thought": text if is_open else text[:begin],
        "reply": "" if is_open else text[begin:].strip("\n"),
    }


def _score(manifest: Mapping[str, Any]) -> str:
    score = manifest["score"]
    lo, hi = 100 * score["pass_at_1_lo"], 100 * score["pass_at_1_hi"]
    return (
        f"Pass@1 {100 * score['pass_at_1']:.1f} % [{lo:.1f}, {hi:.1f}] over {score['n_problems']:,} problems x "
        f"{score['n_samples']:,}; {100 * score['truncated_share']:.1f} % truncated, "
        f"{score['mean_new_tokens']:,.0f} new tokens in the mean."
    )


def held_sentence(config: CellConfig, manifest: Mapping[str, Any]) -> str:
    """Whether any reply held more slots than its budget allows, with the slack until the next eviction."""
    peak = manifest["kv_tokens_peak"]
    if config.budget is None:
        return f"No budget: a reply held {peak:,} slots at most."
    slack = manifest["method"].get("slack_tokens", 0)
    allowed = config.budget + slack
    room = f"{config.budget:,} and {slack:,} of slack until the next eviction"
    overflow = manifest.get("pin_overflow_tokens")
    pinned = f" {overflow:,} pinned tokens did not fit." if overflow else ""
    if peak <= allowed:
        return f"The budget held: a reply had {peak:,} slots at most, and {allowed:,} are allowed ({room}).{pinned}"
    return f"The budget did not hold: a reply had {peak:,} slots, and {allowed:,} are allowed ({room}).{pinned}"


def _facts(config: CellConfig) -> list[tuple[str, str]]:
    known = {**config.resolved(), "method": config.label}
    names = [name for name in _SHOWN if known.get(name) is not None]
    return [(name.replace("_", " "), str(known[name])) for name in names if name != "options" or known[name]]


def _run_facts(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """When, for how long and with how many evictions it ran."""
    found = [("evictions", f"{manifest['evictions']:,}")]
    found += [("ended", f"{manifest['ended'][:16].replace('T', ' ')} UTC")] if "ended" in manifest else []
    return [*found, ("took", f"{manifest['wall_s']:,.0f} s")]
