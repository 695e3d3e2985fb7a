"""Executed notebooks as pages: small, code folded, without anything from the network."""

from __future__ import annotations

import re
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..paths import PACKAGE
from .site import SELF_CONTAINED, has_stamp, render, stamp_of, write_page

if TYPE_CHECKING:
    from nbconvert import HTMLExporter

_EMPTY_HEAD = re.compile(r"<th((?: [^>]*)?)></th>")


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
        body=_body(source, content),
        back=back,
        source=source.name,
        root=root,
        stamp=stamp,
        policy=SELF_CONTAINED,
    )
    write_page(page, html)
    return True


def _body(source: Path, content: bytes) -> str:
    """The cells of a notebook as markup of nbconvert's; of a damaged one what is wrong with it, with a warning."""
    import nbformat
    from markupsafe import Markup
    from nbconvert.exporters import TemplateExporter

    try:
        notebook = nbformat.reads(content.decode(), as_version=4)
        # HTMLExporter's own parses all of the result once more, which takes twice as long as making it
        body, _ = TemplateExporter.from_notebook_node(_exporter(), notebook)
    except (nbformat.ValidationError, ValueError, AttributeError, RecursionError) as error:
        line = str(error).partition("\n")[0]
        warnings.warn(f"{source} is no notebook, so its page is empty: {line}", RuntimeWarning, stacklevel=4)
        return f"{source.name} is no notebook: {line}"
    # the corners of pandas' tables are heads of nothing
    return Markup(_EMPTY_HEAD.sub(r"<td\1></td>", body))


@cache
def _exporter() -> HTMLExporter:
    from nbconvert import HTMLExporter
    from nbconvert.filters import Highlight2HTML

    exporter = HTMLExporter(
        template_name="notebook",
        extra_template_basedirs=[str(PACKAGE / "pages" / "templates")],
        # one block a stream, a progress bar as it was last
        preprocessors=["nbconvert.preprocessors.CoalesceStreamsPreprocessor"],
    )
    exporter.register_filter("highlight_code", Highlight2HTML(pygments_lexer="ipython3", parent=exporter))
    return exporter
