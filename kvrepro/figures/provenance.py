"""What a notebook's results were made with, folded away at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

_LIST = "display:grid;grid-template-columns:max-content 1fr;gap:.15em 1em;margin:.4em 0;font-size:90%"


@dataclass(frozen=True)
class Folded:
    """Names and values under a heading that unfolds them; as text, a line each."""

    heading: str
    values: Mapping[str, Any]

    def _repr_html_(self) -> str:
        lines = "".join(
            f"<dt>{escape(str(name))}</dt><dd style='margin:0;overflow-wrap:anywhere'>{escape(str(value))}</dd>"
            for name, value in self.values.items()
        )
        return f"<details><summary>{escape(self.heading)}</summary><dl style='{_LIST}'>{lines}</dl></details>"

    def __repr__(self) -> str:
        return "\n".join([f"{self.heading}:", *(f"  {name}: {value}" for name, value in self.values.items())])


def provenance(values: Mapping[str, Any], heading: str = "Made with") -> Folded:
    """A notebook's last output: hashes, revision, versions.

    Args:
        values: name -> value; a mapping among them is laid out in its place.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= dict(value) if isinstance(value, Mapping) else {name: value}
    return Folded(heading, flat)
