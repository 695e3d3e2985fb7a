"""Measured numbers in the pages are those of the committed files."""

from __future__ import annotations

import pytest

from . import documented_tables as made
from .documents import PAGES

FOUND = [(page.name, name, text) for page in PAGES for name, text in made.MARKED.findall(page.read_text())]


@pytest.mark.parametrize(("page", "name", "text"), FOUND, ids=[name for _, name, _ in FOUND])
def test_a_measured_table_is_what_its_file_says(page, name, text):
    assert text == made.TABLES[name](), f"{page}: run `python -m tests.documented_tables`"


def test_every_table_stands_on_one_page():
    assert sorted(name for _, name, _ in FOUND) == sorted(made.TABLES)
    assert all(page.read_text().count("<!-- table: ") == len(made.MARKED.findall(page.read_text())) for page in PAGES)
