"""What all pages share: templates, assets, stamps by which a page that has not changed is left as it is."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from ..figures.reply_pictures import picture_file
from ..files import replacing
from ..paths import PACKAGE

_ROOM = PACKAGE / "pages"
# the step-by-step picture of a reply is a figure that is drawn in the browser
_ASSET_FOLDERS = (_ROOM / "assets", PACKAGE / "figures" / "assets")
# the stamp stands in a page's first bytes, so that a long page need not be read for it
_HEAD_BYTES = 1024
_END = b"</html>"  # a copy that was broken off lacks it
_STAMP = re.compile(rb'<meta name="kvrepro-stamp" content="([0-9a-f]{64})">')

# files of the page's own site alone; `file:` is for browsers to which no two files on a disk are of one site
SELF_CONTAINED = "default-src 'none'; " + "; ".join(
    f"{kind} 'self' file: {more}".strip()
    for kind, more in (("img-src", "data:"), ("style-src", "'unsafe-inline'"), ("script-src", ""))
)


@cache
def _environment() -> jinja2.Environment:
    """Templates in which every value is escaped, and one that is missing is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_ROOM / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["with_code"] = _with_code
    return made


def _with_code(text: str) -> Markup:
    """What stands in backticks as code, all of it escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def asset_files() -> list[Path]:
    """Styles and scripts of the pages, each name once."""
    return sorted(path for folder in _ASSET_FOLDERS for path in folder.glob("*.[cj]s*"))


def asset_text(name: str) -> str:
    """One of the assets, for a page that has to stand alone."""
    return (_ROOM / "assets" / name).read_text()


def write_assets(folder: Path) -> None:
    """Write `assets/` below a profile's pages; files that are there already, as they should be, are left alone."""
    target = folder / "assets"
    target.mkdir(parents=True, exist_ok=True)
    for source in asset_files():
        content, path = source.read_bytes(), target / source.name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)


@cache
def _code() -> str:
    """A hash of whatever of the package makes pages."""
    sources = [path for path in _ROOM.rglob("*") if path.suffix in (".py", ".j2", ".json", ".css", ".js")]
    return digest(path.read_bytes() for path in sorted({*sources, *asset_files()}))


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 over parts, each with its length, so that no two lists of parts are alike."""
    found = hashlib.sha256()
    for part in parts:
        found.update(b"%d:" % len(part) + part)
    return found.hexdigest()


def stamp_of(*parts: bytes) -> str:
    """What a page made of these parts by this code is known by."""
    return digest([_code().encode(), *parts])


def has_stamp(page: Path, stamp: str) -> bool:
    """Whether a page is there, whole, and was made of the same."""
    try:
        with page.open("rb") as file:
            found = _STAMP.search(file.read(_HEAD_BYTES))
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(_END)))
            is_whole = file.read() == _END
    except FileNotFoundError:
        return False
    return is_whole and found is not None and found[1].decode() == stamp


def render(template: str, **values: Any) -> str:
    """A page as text."""
    return _environment().get_template(template).render(**values)


def write_page(path: Path, html: str) -> None:
    """Write a page whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # models emit halves of characters, which JSON keeps and UTF-8 does not, and NUL, which is no part of HTML
    write_bytes(path, html.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content)


def anchor_of(problem_id: str, sample_id: int) -> str:
    """A reply's place on its cell's page: the name of its picture's file without the suffix."""
    return picture_file(problem_id, sample_id).removesuffix(".js")
