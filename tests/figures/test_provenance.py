"""What is folded away at the end of a notebook."""

from __future__ import annotations

from kvrepro.figures.provenance import provenance


def test_values_are_folded_escaped_and_readable_as_text():
    folded = provenance({"cell": "<b>", "versions": {"torch": 2}}, "Versions")
    assert repr(folded) == "Versions:\n  cell: <b>\n  torch: 2"
    text = folded._repr_html_()
    assert text.startswith("<details><summary>Versions</summary>")
    assert "&lt;b&gt;" in text and "<b>" not in text
