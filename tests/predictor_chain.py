"""The predictor's chain on a few tiny questions: made once for each file of tests that look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvrepro.files import read_rows
from kvrepro.training.importance.pipeline import LoadedModel, make_labels, make_traces
from kvrepro.training.importance.settings import TrainingSettings
from kvrepro.training.traces import TRACES, Trace, TraceOptions, select_traces

SMALL = TraceOptions(n_train=6, n_held_out=4, sizes=(4, 5), max_new_tokens=200, batch_rows=10)
PLAN = TrainingSettings("tiny-r1-llama", SMALL, training={"epochs": 2})


@pytest.fixture(scope="module")
def loaded():
    return LoadedModel(PLAN, "cpu")


@pytest.fixture(scope="module")
def traces(tmp_path_factory, loaded):
    return make_traces(PLAN, folder=tmp_path_factory.mktemp("chain") / "traces", loaded=loaded)


@pytest.fixture(scope="module")
def labels(traces, loaded, tmp_path_factory):
    pytest.importorskip("datasets", reason="labels are stored with the package datasets")
    folder = tmp_path_factory.mktemp("chain") / "labels"
    return make_labels(PLAN, traces["folder"], folder=folder, loaded=loaded)


def traces_file(manifest) -> Path:
    return Path(manifest["folder"]) / TRACES


def some_traces(manifest, n: int = 4) -> list[Trace]:
    return select_traces(read_rows(traces_file(manifest)))[0][:n]
