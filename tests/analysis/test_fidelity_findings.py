"""What a table of fidelity came to, in sentences, and the committed tables."""

from __future__ import annotations

import pandas as pd
import pytest

from kvrepro.analysis.fidelity_profile import committed_fidelity, fidelity_findings
from kvrepro.errors import KvreproError

TITLE = "m, b, 112 slots"


def table(n_traces=24, **kl):
    """KL of methods at one budget, every interval 0.02 to each side."""
    frame = pd.DataFrame({"label": list(kl), "kl": list(kl.values())})
    frame = frame.assign(kl_lo=frame.kl - 0.02, kl_hi=frame.kl + 0.02, agrees=0.95, n_traces=n_traces)
    return frame.assign(model="m", benchmark="b", budget_tokens=112)


def test_the_closest_method_is_named_with_those_whose_intervals_overlap():
    found = fidelity_findings(table(h2o=0.9, dynts=0.14, random=0.13, oracle_future=0.00002, rkv=0.1))
    assert found[TITLE] == [
        "Of 4 methods rkv is closest to the full cache, KL 0.1 nats [0.08, 0.12]; "
        "intervals overlap with random, dynts.",
        "dynts is number 3 of 4: KL 0.14 nats [0.12, 0.16], the same most likely token at 95.0 % of the positions.",
        "With what no method can know while it generates: oracle_future <0.0001 nats [<0.0001, 0.02].",
    ]


def test_of_many_that_overlap_some_are_named_and_dynts_is_told_of_once():
    found = fidelity_findings(table(dynts=0.1, a=0.11, b=0.11, c=0.11, d=0.11, e=0.11))
    assert found[TITLE] == [
        "Of 6 methods dynts is closest to the full cache, KL 0.1 nats [0.08, 0.12]; "
        "intervals overlap with a, b, c, d and 1 more."
    ]
    (alone,) = fidelity_findings(table(rkv=0.1, h2o=0.5))[TITLE]
    assert alone.endswith("; no interval overlaps.")


def test_few_replies_say_nothing_about_an_order():
    found = fidelity_findings(table(6, dynts=0.1, h2o=0.9))[TITLE]
    assert found == [
        "6 replies say nothing about the order of 2 methods.",
        "dynts: KL 0.1 nats [0.08, 0.12], the same most likely token at 95.0 % of the positions.",
    ]


def test_budgets_stand_apart():
    both = pd.concat([table(dynts=0.2, h2o=0.1), table(dynts=0.1, h2o=0.3).assign(budget_tokens=1440)])
    assert list(fidelity_findings(both)) == [TITLE, "m, b, 1,440 slots"]


@pytest.mark.parametrize("name", ["tiny-fidelity", "smollm2-fidelity"])
def test_committed_tables_say_something_at_every_budget(name):
    committed = committed_fidelity(name)
    found = fidelity_findings(committed)
    assert len(found) == committed.budget_tokens.nunique()
    few = committed.n_traces.max() < 8
    assert all(("say nothing" in lines[0]) == few and len(lines) >= 2 for lines in found.values())


def test_a_table_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(KvreproError, match="'big' is no committed .*; expected smollm2-fidelity or tiny-fidelity"):
        committed_fidelity("big")
