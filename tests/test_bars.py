"""What is shown of long work: bars where somebody watches, nothing in notebooks; times in words."""

from __future__ import annotations

import io
import sys

import pytest

from kvrepro import bars


class OutStream(io.StringIO):
    """What ipykernel puts in the place of the error output."""

    __module__ = "ipykernel.iostream"


@pytest.mark.parametrize(("stream", "is_shown"), [(io.StringIO, True), (OutStream, False)], ids=["log", "notebook"])
def test_a_bar_is_drawn_on_the_error_output_and_not_into_a_notebook(monkeypatch, stream, is_shown):
    monkeypatch.setattr(sys, "stderr", stream())
    assert list(bars.progress_bar([1, 2, 3], desc="work")) == [1, 2, 3]
    shown = sys.stderr.getvalue()
    assert ("work: 100%" in shown) == is_shown and bool(shown) == is_shown
    assert bars.in_notebook() != is_shown


def test_a_model_is_loaded_without_bars_where_nobody_watches_and_they_come_back(monkeypatch):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.enable_progress_bar()
    try:
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with bars.quiet_loading():
            assert not logging.is_progress_bar_enabled()
        assert logging.is_progress_bar_enabled()
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        with bars.quiet_loading():
            assert logging.is_progress_bar_enabled()
    finally:
        (logging.enable_progress_bar if before else logging.disable_progress_bar)()


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.004, "0.004 s"), (89, "89 s"), (90, "1.5 min"), (5400, "1.5 h")]
)
def test_a_time_is_in_the_unit_that_reads_best(seconds, text):
    assert bars.duration(seconds) == text
