"""Eviction methods by name. A new method is one file and one row of `METHODS`.

Classes are imported when they are asked for: listing names and checking parameters must not load torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from ..checks import typed
from ..errors import KvreproError, check_known
from .budgets import (
    AS_PUBLISHED,
    FAIR,
    Rule,
    Schedule,
    Sizes,
    buffer_on_top,
    dynts_rule,
    fair_rule,
    growing,
    remains,
    resolve_protocol,
    sinks_separators_window,
    window_only,
)
from .declaration import SCALARS, checked_options, declared_options, option_types
from .learned.folder import LEARNED
from .own import is_reference, own_class, own_method

if TYPE_CHECKING:
    from .base import EvictionMethod


@dataclass(frozen=True)
class MethodEntry:
    """One row of the table.

    Attributes:
        target: module and class.
        published: what the method's own paper means by a budget.
        only_window: the window that defines the method, if one does.
        learned: fields of a cell that name the trained folders which the method reads; what is in them counts in the
            cell's hash.
        reads_separators: the method reads the model's separators, which count too.
        revision: raised when the method's own scores change, so that its older cells are not taken for new ones.
        switch_revisions: of a switch's scores, where it is on.
        content: of a user's own class what it is and what its file holds, which counts too.
    """

    target: str
    published: Rule = dynts_rule
    only_window: int | None = None
    learned: tuple[str, ...] = ()
    reads_separators: bool = False
    revision: int = 1
    switch_revisions: tuple[tuple[str, int], ...] = ()
    content: str | None = None

    def revision_of(self, options: dict | None) -> int:
        """The revision that counts under a cell's options."""
        on = [n for switch, n in self.switch_revisions if (options or {}).get(switch)]
        return max([self.revision, *on])


FULL = "full"

# the order is the order of lists and tables
METHODS: dict[str, MethodEntry] = {
    "full": MethodEntry("full:FullMethod"),
    # the paper's baselines as its repository runs them
    "window_dynts": MethodEntry("recency:WindowDynTSMethod", window_only()),
    "streaming_dynts": MethodEntry("recency:StreamingDynTSMethod", window_only(extra=10)),
    "sepllm_dynts": MethodEntry("sepllm:SepLLMDynTSMethod", reads_separators=True),
    "h2o_dynts": MethodEntry("h2o:H2ODynTSMethod"),
    "snapkv_dynts": MethodEntry("snapkv:SnapKVDynTSMethod"),
    "rkv_dynts": MethodEntry("rkv:RKVDynTSMethod"),
    # the same as their authors define them
    "window": MethodEntry("recency:WindowMethod"),
    # all that is not a sink is recent, so a window of its own would change nothing
    "streaming_llm": MethodEntry("recency:StreamingLLMMethod", remains(0, 1), switch_revisions=(("reindex", 2),)),
    "sepllm": MethodEntry("sepllm:SepLLMMethod", sinks_separators_window, reads_separators=True),
    "h2o": MethodEntry("h2o:H2OMethod", remains(512, 1)),
    "snapkv": MethodEntry("snapkv:SnapKVMethod", remains(8, 128)),
    "rkv": MethodEntry("rkv:RKVMethod", remains(8, 128)),
    # DynTS and its ablations as published
    "dynts": MethodEntry("dynts:DynTSMethod", learned=("predictor",)),
    "dynts_random": MethodEntry("ablations:DynTSRandomMethod"),
    "dynts_bottom": MethodEntry("ablations:DynTSBottomMethod", learned=("predictor",)),
    "dynts_noque": MethodEntry("ablations:DynTSNoQuestionMethod", learned=("predictor",)),
    "dynts_nothink": MethodEntry("ablations:DynTSNoThinkingMethod", window_only(fills_ratio=False)),
    "dynts_nolocal": MethodEntry("ablations:DynTSNoLocalMethod", only_window=1, learned=("predictor",)),
    # the fair ablations: the question always stays
    "random": MethodEntry("random:RandomMethod"),
    "bottom": MethodEntry("ablations:BottomMethod", learned=("predictor",)),
    "question_window": MethodEntry("recency:QuestionWindowMethod"),
    # successors
    "random_attention": MethodEntry("random:RandomAttentionMethod", buffer_on_top),
    "vase_attnv": MethodEntry("vase:VaSEAttnVMethod", remains(None, 64)),
    "vase_dkv": MethodEntry("vase:VaSEDKVMethod", remains(None, 64)),
    "triattention": MethodEntry(
        "triattention:TriAttentionMethod", remains(0, 128), learned=("calibration",), revision=2
    ),
    "gkv": MethodEntry("gkv:GKVMethod", remains(16, 128)),
    "lazy_eviction": MethodEntry("lazy_eviction:LazyEvictionMethod", remains(None, 175)),
    "foresight_kv": MethodEntry("foresight_kv:ForesightKVMethod", remains(None, 128), learned=("judge",)),
    "rpc": MethodEntry("rpc:RPCMethod", growing),
    "raas": MethodEntry("raas:RaaSMethod", remains(1, 1)),
    "tova": MethodEntry("tova:TOVAMethod", remains(0, 1)),
    "keydiff": MethodEntry("key_scores:KeyDiffMethod", remains(None, 64)),
    "knorm": MethodEntry("key_scores:KnormMethod", remains(None, 64)),
    "expected_attention": MethodEntry("expected_attention:ExpectedAttentionMethod", remains(0, 512)),
    # bounds, in teacher-forced mode only
    "oracle_answer": MethodEntry("oracles:OracleAnswerMethod"),
    "oracle_future": MethodEntry("oracles:OracleFutureMethod"),
}


def check_method_name(method: str) -> None:
    """Raise `KvreproError` unless `method` is a known name, or names a class in a file, `FILE.py:CLASS`."""
    if not is_reference(method):
        check_known("method", METHODS, method)
    elif (name := own_method(method).name) in METHODS:
        _refuse_taken(method.rpartition(":")[2], name)


def method_name(method: str) -> str:
    """What tables and folders call a method: its name, for a reference the name that its class states."""
    return own_method(method).name if is_reference(method) else method


def method_entry(method: str) -> MethodEntry:
    """The row of a method; a user's own class has what its source says, and the revision of the class it derives from.

    Raises `KvreproError` as `check_method_name`.
    """
    check_method_name(method)
    if not is_reference(method):
        return METHODS[method]
    own = own_method(method)
    parents = [row for row in METHODS.values() if row.target in own.bases]
    return MethodEntry(
        "",
        learned=tuple(need for need in own.needs if need in LEARNED),
        reads_separators="separators" in own.needs,
        revision=max([1, *(row.revision for row in parents)]),
        switch_revisions=tuple(pair for row in parents for pair in row.switch_revisions),
        content=own.content,
    )


def cell_options(method: str, options: Mapping[str, object]) -> dict[str, object]:
    """Options of a cell, checked without loading the method's class: numbers, texts and booleans of the declared type.

    Raises `KvreproError` for one of the wrong type, that the method does not have or that no cell can hold, and for
    `full`.
    """
    if method == FULL:
        _refuse_for_full(options)
    known = own_method(method).options if is_reference(method) else declared_options(METHODS[method].target)
    return checked_options(
        method_name(method), options, {n: k for n, k in known.items() if k.removesuffix(" | None") in SCALARS}
    )


def idle_sizes(method: str, protocol: str | None, window: int | None) -> tuple[str, ...]:
    """Sizes that mean nothing to a method, of which a caller who only changes the method may have set some; `window`,
    as given, counts among them where it is not the method's own.
    """
    if method == FULL:
        return ("budget", "window", "ratio", "evict_every", "protocol", "options")
    entry = method_entry(method)
    idle = [] if entry.only_window is None or window == entry.only_window else ["window"]
    if protocol == AS_PUBLISHED:
        probes = {"ratio": (0.5, None), "evict_every": (None, 1)}
        idle += [name for name, sizes in probes.items() if not _published_takes(entry, *sizes)]
    return tuple(idle)


def _published_takes(entry: MethodEntry, ratio: float | None, evict_every: int | None) -> bool:
    try:
        # a budget above every window of the table
        entry.published(Sizes("", 2**20, None, ratio, evict_every))
    except KvreproError:
        return False
    return True


def _refuse_for_full(given: Mapping[str, object]) -> None:
    for name, value in given.items():
        raise KvreproError(f"method 'full' never evicts, so {name}={value} would mean nothing; leave it out")


def method_class(method: str | type[EvictionMethod]) -> type[EvictionMethod]:
    """The class behind a name or a reference, whose file is executed; a class is checked and stays what it is.

    Raises `KvreproError` for an unknown name, for what is no subclass of `EvictionMethod`, or has another method's
    name.
    """
    if isinstance(method, str) and is_reference(method):
        method = own_class(method)
    elif isinstance(method, str):
        check_method_name(method)
        module, cls = METHODS[method].target.split(":")
        return getattr(import_module(f".{module}", __package__), cls)
    base = import_module(".base", __package__).EvictionMethod
    if not isinstance(method, type) or not issubclass(method, base) or method is base:
        raise KvreproError(f"method={method!r}: expected a name (kvrepro list methods) or a subclass of EvictionMethod")
    # a name of the table would bring that row's published schedule, and its name in every table
    if method.name in METHODS and not method.__module__.startswith(f"{__package__}."):
        _refuse_taken(method.__name__, method.name)
    return method


def _refuse_taken(cls: str, name: str) -> None:
    raise KvreproError(f"class {cls} is named {name!r}, which is a method of the package: give it another `name`")


def create_schedule(
    method: str,
    budget: int | None,
    window: int | None = None,
    ratio: float | None = None,
    evict_every: int | None = None,
    protocol: str | None = None,
) -> Schedule | None:
    """The schedule of a method under a budget, None for `full`; defaults are filled in here.

    `protocol`: `fair` (the budget is what remains after an eviction, for every method) or `as_published`; None means
    `as_published` where a ratio is given and `fair` elsewhere. Raises `KvreproError` for sizes of the wrong type or
    that do not fit together, a budget for `full`, or none for another method.
    """
    given = {"budget": budget, "window": window, "ratio": ratio, "evict_every": evict_every, "protocol": protocol}
    kinds = {"ratio": float | None, "protocol": str | None}
    given = {name: typed(name, value, kinds.get(name, int | None)) for name, value in given.items()}
    if method == FULL:
        _refuse_for_full({name: value for name, value in given.items() if value is not None})
        return None
    if budget is None:
        raise KvreproError(f"method {method!r} needs a budget in tokens, for example budget=256")
    # a class of a caller's own has no row; its paper, if it has one, is not known here
    entry = METHODS.get(method, MethodEntry(""))
    if entry.only_window is not None and given["window"] not in (None, entry.only_window):
        raise KvreproError(f"window={window}: {method} is defined by window={entry.only_window}; leave it out")
    protocol = resolve_protocol(given.pop("protocol"), given["ratio"])
    sizes = Sizes(method, **given)
    if entry.only_window is not None:
        sizes = sizes._replace(window=entry.only_window)
    return fair_rule(sizes) if protocol == FAIR else entry.published(sizes)


def create_method(
    method: str | type[EvictionMethod],
    budget: int | None = None,
    window: int | None = None,
    ratio: float | None = None,
    evict_every: int | None = None,
    protocol: str | None = None,
    **options: object,
) -> EvictionMethod:
    """Build a method under a budget.

    Args:
        method: a name of `METHODS`, or a subclass of `EvictionMethod` of your own, also as `FILE.py:CLASS`.
        budget: slots per row; must be None for `full` and given for every other method.
        window: local window, slots; default 40 % of the budget.
        ratio: DynTS' share of candidates kept.
        evict_every: tokens between evictions, for a budget that is what remains after one.
        protocol: what the budget means; see `create_schedule`.
        options: the method's own fields and switches.

    Raises:
        KvreproError: an option that the method does not have or of the wrong type, or sizes that do not fit together.
    """
    cls = method_class(method)
    options = checked_options(cls.name, options, option_types(cls))
    if cls.name == FULL:
        # what pinned tokens do when they do not fit is a parameter of every cell
        _refuse_for_full({name: value for name, value in options.items() if name != "pin_overflow"})
    return cls(schedule=create_schedule(cls.name, budget, window, ratio, evict_every, protocol), **options)
