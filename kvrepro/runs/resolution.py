"""What a cell comes to before it runs: the values that the run will use, and what its budget means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from ..benchmarks.table import benchmark_entry, load_problems
from ..errors import KvreproError
from ..methods.base import EvictionMethod
from ..methods.learned.folder import LEARNED
from ..methods.learned.importance import PredictorShape
from ..methods.learned.loading import load_learned, named_separator_ids
from ..methods.table import create_method, method_class
from ..models.shapes import model_config, model_dtype, model_size
from ..models.table import ModelEntry, model_entry
from ..models.tokens import render_prompt
from .config import CellConfig
from .identity import learned_source

# where tokenizer or rows are not on this machine; only cells without a budget depend on it
ASSUMED_PROMPT_TOKENS = 1024
# text of a reply with its fields, and the executed notebook
BYTES_PER_TOKEN, NOTEBOOK_BYTES = 5, 60_000


@dataclass(frozen=True)
class ResolvedCell:
    """A cell, its method without what is read from files, and tokens by problem (None: not known on this machine)."""

    config: CellConfig
    method: EvictionMethod
    prompts: Mapping[str, int] | None

    @classmethod
    def of(cls, config: CellConfig) -> ResolvedCell:
        """Look at a cell without asking whether it can run, as `resolve_cell` does."""
        # what the method needs from files does not change its sizes
        stand_ins = {need: (0,) if need == "separators" else object() for need in method_class(config.method).needs}
        method = create_method(config.method, **{**config.method_options(), **stand_ins})
        rows = (config.benchmark, config.n_problems, config.prompt_style)
        return cls(config, method, prompt_lengths(config.model, *rows))

    def check_prompts(self) -> None:
        """Raise `KvreproError` for the first prompt that the budget cannot serve; those not known pass."""
        for problem_id, n_tokens in (self.prompts or {}).items():
            try:
                self.method.check_prompt(n_tokens)
            except KvreproError as error:
                raise KvreproError(f"problem {problem_id}: {error}") from error

    @property
    def entry(self) -> ModelEntry:
        """The model's row."""
        return model_entry(self.config.model)

    @property
    def n_replies(self) -> int:
        """Problems times samples."""
        known = benchmark_entry(self.config.benchmark).n_problems
        return (self.config.n_problems or known) * self.config.n_samples

    @property
    def batch_rows(self) -> int:
        """Rows decoded together, at most the cell's replies."""
        return min(self.config.batch_rows, self.n_replies)

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt, assumed where it is not known."""
        return ASSUMED_PROMPT_TOKENS if self.prompts is None else max(self.prompts.values())

    @property
    def capacity_tokens(self) -> int:
        """Slots that the engine allocates for a row."""
        return self.method.capacity_slots(self.longest_prompt, self.config.max_new_tokens)

    @property
    def kv_bytes(self) -> int:
        """K and V storage that the engine allocates."""
        return self.batch_rows * self.capacity_tokens * model_size(self.entry).kv_bytes_per_token

    @property
    def predictor_bytes(self) -> int:
        """Of the importance head in its dtype, of the published widths where none is at hand; 0 if none is read."""
        if "predictor" not in self.method.needs:
            return 0
        size = model_size(self.entry)
        source = learned_source(self.entry, "predictor", self.config.predictor)
        known = None if source is None else PredictorShape.on_disk(source)
        return (known or PredictorShape.published(size.hidden)).parameters * size.element_bytes

    def disk_bytes(self, new_tokens: float) -> int:
        """What the cell writes if a reply has so many tokens on average."""
        return int(self.n_replies * new_tokens * BYTES_PER_TOKEN) + NOTEBOOK_BYTES

    @property
    def kept_tokens(self) -> int | None:
        """Slots that remain after an eviction; None for `full` and where the method's own rule decides row by row."""
        return self.method.kept_tokens(self.config.protocol)

    @property
    def peak_tokens(self) -> int | None:
        """The most slots that a row can hold; None where that depends on prompts which are not known."""
        if self.prompts is not None:
            return self.capacity_tokens
        # a prompt of any length and a reply without end: the budget alone decides, or nothing does
        bound, same = (self.method.capacity_slots(n, 2**40) for n in (1, 2))
        return bound if bound == same else None

    def values(self) -> dict[str, Any]:
        """Every value that the run uses, defaults filled in; what means nothing to the cell is left out."""
        config, method, schedule = self.config, self.method, self.method.schedule
        needs = method.needs
        learned = {n: learned_source(self.entry, n, getattr(config, n)) if n in needs else None for n in LEARNED}
        switches = {f.name: getattr(method, f.name) for f in fields(method) if f.name not in (*needs, "schedule")}
        counts = sorted((self.prompts or {}).values())
        shown = {
            **config.resolved(),
            **learned,
            "options": {k: v for k, v in switches.items() if isinstance(v, str | int | float) and k != "pin_overflow"},
            "n_problems": config.n_problems or benchmark_entry(config.benchmark).n_problems,
            "dtype": _dtype(self.entry),
            "think_end": self.entry.think_end,
            "kept_tokens": self.kept_tokens,
            "peak_tokens": self.peak_tokens,
            "prompt_tokens": [counts[0], counts[-1]] if counts else "not counted here",
        }
        if schedule is None:
            shown["options"] = None
        else:
            period = None if self.kept_tokens is None else schedule.period_steps
            every = period if schedule.ratio is None else None
            shown |= {"window": schedule.window, "ratio": schedule.ratio, "evict_every": every, "period_steps": period}
        return {name: value for name, value in shown.items() if value is not None}

    @property
    def budget_line(self) -> str:
        """One sentence: the protocol, what remains after an eviction, and the peak."""
        schedule, kept, peak = self.method.schedule, self.kept_tokens, self.peak_tokens
        most = "as many slots as the prompts ask for (not counted here)" if peak is None else f"{peak} slots"
        if schedule is None:
            return f"full: nothing is evicted; a row grows to at most {most}"
        start = f"protocol {self.config.protocol}, budget {self.config.budget}: "
        if self.prompts is not None and peak < schedule.peak_tokens:
            return f"{start}nothing will be evicted, because no row can grow beyond {most}"
        if kept is None:
            return f"{start}a row peaks at {most}; how many an eviction keeps is the method's own rule"
        return (
            f"{start}{kept} slots remain after an eviction, {schedule.period_steps} tokens later a row peaks at {most}"
        )

    def lines(self, left_out: Iterable[str], beside: Iterable[Mapping[str, Any]]) -> list[str]:
        """What a reader of the cell's numbers must know: `budget_line`, sizes that were left out, `protocol_note`."""
        left = ", ".join(left_out)
        idle = f"{self.config.method_name} takes no {left} here: left out" if left else None
        return [line for line in (self.budget_line, idle, self.protocol_note(beside)) if line]

    def protocol_note(self, others: Iterable[Mapping[str, Any]]) -> str | None:
        """A sentence if cells of the same model and benchmark run under another protocol.

        Args:
            others: their configurations, such as `config.resolved()` or a manifest's `config`.
        """
        mine = self.config
        beside = [o for o in others if (o["model"], o["benchmark"]) == (mine.model, mine.benchmark)]
        apart = [
            f"{o['method'].rpartition(':')[2]} at {o['budget']} ({o['protocol']})"
            for o in beside
            if None not in (o["protocol"], mine.protocol) and o["protocol"] != mine.protocol
        ]
        if not apart:
            return None
        more = f" and {len(apart) - 3} more" if len(apart) > 3 else ""
        return (
            f"NOTE: this cell runs under protocol {mine.protocol}, beside it {', '.join(apart[:3])}{more} did not: "
            "equal budgets mean different sizes there, so do not compare them"
        )


def resolve_cell(config: CellConfig) -> ResolvedCell:
    """Look at a cell as its run will, without weights.

    Raises:
        KvreproError: sizes or options that the method refuses, a prompt that the budget cannot serve, or an oracle.
    """
    if "trace" in (cls := method_class(config.method)).needs:
        # says why it cannot generate
        load_learned(cls, None, None)
    resolved = ResolvedCell.of(config)
    resolved.check_prompts()
    return resolved


def loaded_method(config: CellConfig, model, tokenizer, **given: Any) -> EvictionMethod:
    """The cell's method as it runs, with what it reads beside the weights.

    Args:
        given: options of the method that the caller has already, such as the traces of an oracle.

    Raises:
        KvreproError: a file is missing, or the method is an oracle without its traces.
    """
    entry, cls = model_entry(config.model), method_class(config.method)
    options = {**config.method_options(), **given}
    sources = {**options, **{name: learned_source(entry, name, getattr(config, name)) for name in LEARNED}}
    if entry.separators is not None and "separators" not in given:
        sources["separators"] = named_separator_ids(tokenizer, entry.separators)
    return create_method(cls, **{**options, **load_learned(cls, model, tokenizer, sources)})


@lru_cache(maxsize=64)
def prompt_lengths(model: str, benchmark: str, n_problems: int | None, style: str) -> Mapping[str, int] | None:
    """Tokens of each problem's prompt, None where tokenizer or rows are not on this machine."""
    from transformers import AutoTokenizer

    entry = model_entry(model)
    try:
        # the tokenizer first: without it the rows are of no use, and asking the Hub for them takes a while offline
        tokenizer = AutoTokenizer.from_pretrained(entry.source, revision=entry.revision, local_files_only=True)
        problems, tags = load_problems(benchmark, n_problems, style), entry.tags(tokenizer)
        return {p.problem_id: len(render_prompt(tokenizer, p.question, tags)) for p in problems}
    except (KvreproError, OSError, ValueError):
        # remembered as well: every cell of a profile asks
        return None


def _dtype(entry: ModelEntry) -> str:
    try:
        return model_dtype(entry, model_config(entry))
    except KvreproError:
        # a checkpoint that is not here says it when it is loaded
        return entry.dtype
