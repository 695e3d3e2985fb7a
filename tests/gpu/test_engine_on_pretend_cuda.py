"""Every method in whole runs, as a GPU would make them: the CPU's replies, and nothing waited for in a steady step."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from ..method_cases import COMPRESSED
from .engine_runs import DECIDING, EVICTION, STEADY, Run, requests, run
from .pretend_cuda import BLOCKING, PretendCuda
from .settings import needs_pretend_cuda

pytestmark = needs_pretend_cuda

# the host waits for no eviction, but where only the device knows how many slots stay
WAITS_ONCE = (("sepllm", "published"), ("sepllm_dynts", "published"))
# steps after which a token is read: then the device has passed it long ago
OLD_ENOUGH = 4

# runs too short for their schedule
WITHOUT_EVICTION = (("full", "fair"), ("rpc", "published"))
CASES = [("full", "fair"), *((m, p) for p in ("fair", "published") for m in COMPRESSED)]
# several evictions of most rows; under `fair` a row enters when another one has ended
SIZES = {
    "fair": dict(budget=24, asked=requests((5, 9, 13, 7), samples=1)),
    "published": dict(asked=requests((26, 22, 19, 14), samples=1), rows=4),
}


@dataclass
class Pair:
    """The same run on a CPU and on the pretend device."""

    name: tuple[str, str]
    home: Run
    away: Run
    gpu: PretendCuda


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def pair(request) -> Pair:
    method, protocol = request.param
    sizes = dict(SIZES[protocol], new_tokens=40, kind=("llama", "qwen2")[CASES.index(request.param) % 2])
    home = run(method, protocol, **sizes)
    with PretendCuda() as gpu:
        away = run(method, protocol, gpu=gpu, **sizes)
    return Pair(request.param, home, away, gpu)


def test_replies_evictions_and_kept_slots_are_a_cpus(pair):
    assert pair.away.told() == pair.home.told()
    assert (pair.away.decoder.name, pair.away.decoder.capture, pair.away.warnings) == ("graph", True, [])
    # one graph, replayed at every step
    assert pair.gpu.captures == 1 and pair.away.stats.steps >= 39
    evicts = pair.name not in WITHOUT_EVICTION
    assert (pair.away.stats.evictions > 0) == any(c.kept_positions for c in pair.away.replies.values()) == evicts


def test_a_steady_step_waits_for_nothing(pair):
    journal = pair.gpu.journal
    assert journal.visits[STEADY] > 15
    assert journal.found(STEADY, *BLOCKING) == {}
    young = [text for text in journal.found(STEADY, "event wait") if int(text.split("(")[1].split()[0]) < OLD_ENOUGH]
    assert young == []


def test_an_eviction_waits_for_nothing(pair):
    journal = pair.gpu.journal
    groups = journal.visits[EVICTION]
    if pair.name in WITHOUT_EVICTION:
        pytest.skip("nothing is evicted")
    inside, outside = journal.total(EVICTION, *BLOCKING, "event wait"), journal.total(DECIDING, *BLOCKING)
    waits = (inside + outside) / groups
    places = "\n".join([*journal.found(EVICTION, *BLOCKING, "event wait"), *journal.found(DECIDING, *BLOCKING)])
    assert waits == (pair.name in WAITS_ONCE), f"{waits} waits per group:\n{places}"
