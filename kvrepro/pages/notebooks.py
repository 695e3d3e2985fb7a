"""Executed notebooks as pages: small, code folded, without anything from the network."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..paths import PACKAGE
from .site import SELF_CONTAINED, has_stamp, render, stamp_of, write_page

if TYPE_CHECKING:
    from nbconvert import HTMLExporter


def write_notebook(source: Path, page: Path, title: str, root: str = "", back: str = "") -> bool:
    """Write an executed notebook as a page.

    Args:
        source: the `.ipynb`; a copy of it should lie beside the page, which links to it.
        title: of the page.
        root: where `assets/` and the profile's page are, seen from this page.
        back: what the link to the profile's page is called.

    Returns:
        False where the page was left as it is: nothing that it is made of has changed.
    """
    content = source.read_bytes()
    stamp = stamp_of(content, title.encode(), root.encode(), back.encode())
    if has_stamp(page, stamp):
        return False
    html = render(
        "notebook.html.j2",
        title=title,
        body=_body(content.decode()),
        back=back,
        source=source.name,
        root=root,
        stamp=stamp,
        policy=SELF_CONTAINED,
    )
    write_page(page, html)
    return True


def _body(content: str):
    """The cells of a notebook as markup of nbconvert's."""
    import nbformat
    from markupsafe import Markup

    notebook = nbformat.reads(content, as_version=4)
    body, _ = _exporter().from_notebook_node(notebook)
    return Markup(body)


@cache
def _exporter() -> HTMLExporter:
    from nbconvert import HTMLExporter

    return HTMLExporter(
        template_name="notebook",
        extra_template_basedirs=[str(PACKAGE / "pages" / "templates")],
        # one block a stream, a progress bar as it was last
        preprocessors=["nbconvert.preprocessors.CoalesceStreamsPreprocessor"],
    )
