"""Bars of long loops, on a terminal and in a notebook."""

from __future__ import annotations

import IPython.display
import pytest

from kvrepro import progress as bars


@pytest.fixture
def shown(monkeypatch):
    """What a notebook was told to show, one list per output in the order of its states."""
    outputs = []

    class Handle:
        def __init__(self, states):
            self.states = states

        def update(self, data, raw):
            self.states.append(data["text/plain"])

    def display(data, raw, display_id):
        assert raw and display_id
        outputs.append([data["text/plain"]])
        return Handle(outputs[-1])

    monkeypatch.setattr(bars, "_is_notebook", lambda: True)
    monkeypatch.setattr(IPython.display, "display", display)
    return outputs


def test_a_notebook_keeps_one_plain_line_and_nothing_on_stderr(shown, capsys):
    assert list(bars.progress("abc", title="traces")) == ["a", "b", "c"]
    assert len(shown) == 1
    assert shown[0][-1] == "traces: 3 of 3 in 00:00"
    assert capsys.readouterr() == ("", "")


def test_a_line_that_is_updated_by_hand_carries_its_last_values(shown):
    with bars.progress(total=4, initial=2, title="epochs") as bar:
        bar.update(2)
        bar.set_postfix(loss="0.5")
    assert shown[0][-1] == "epochs: 4 of 4 in 00:00, loss=0.5"


def test_outside_a_notebook_a_bar_goes_to_stderr(capsys):
    assert list(bars.progress([1, 2], title="labels")) == [1, 2]
    out, err = capsys.readouterr()
    assert out == ""
    assert "labels: 100%" in err and err.endswith("\n")


def test_a_bar_can_be_switched_off(shown):
    assert list(bars.progress([1], title="labels", disable=True)) == [1]
    assert shown == []
