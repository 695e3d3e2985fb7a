"""`results/index.html`: every profile that has a page, and what it came to."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from ..files import write_json
from ..paths import results_root
from ..runs.profiles import Profile
from .site import SELF_CONTAINED, asset_text, digest, render, write_page

SUMMARY = "page.json"


def write_page_summary(folder: Path, profile: Profile, verdict: Sequence[str], done: int, ended: str | None) -> None:
    """Write `page.json`, what the page over all profiles says of one.

    Args:
        done: finished cells.
        ended: when its newest cell did, ISO 8601; None where none is finished.
    """
    of = len(profile.cells)
    content = dict(profile=profile.name, title=profile.title, verdict=list(verdict), done=done, of=of, ended=ended)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SUMMARY, content)


def write_overview() -> Path:
    """Write the page over all profiles; folders without a `page.json` are no profiles, or have no page yet."""
    found = [_profile(path) for path in sorted(results_root().glob(f"*/{SUMMARY}"))]
    css = asset_text("page.css")
    html = render(
        "overview.html.j2",
        title="Results of kvrepro",
        profiles=[profile for profile in found if profile is not None],
        css=Markup(css),
        stamp=digest([css.encode()]),
        policy=SELF_CONTAINED,
        root="",
    )
    path = results_root() / "index.html"
    write_page(path, html)
    return path


def _profile(path: Path) -> dict[str, Any] | None:
    """What the page says of one profile; of a damaged file nothing, with a warning."""
    try:
        found = json.loads(path.read_text())
        if not isinstance(found["verdict"], list):
            raise TypeError("verdict is no list")
        return {
            "title": str(found["title"]),
            "verdict": str((found["verdict"] or ["Nothing is finished."])[0]),
            "done": int(found["done"]),
            "of": int(found["of"]),
            "ended": str(found["ended"] or "")[:10],
            "link": f"{quote(path.parent.name)}/index.html",
        }
    except (ValueError, KeyError, TypeError, OSError, OverflowError, RecursionError) as error:
        warnings.warn(f"{path}: {error}; its profile is left out of the overview", RuntimeWarning, stacklevel=3)
        return None
