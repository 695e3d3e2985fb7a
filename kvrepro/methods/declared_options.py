"""Options of the package's methods, read from their source: a cell is checked without loading torch."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


@cache
def declared_options(target: str) -> dict[str, str]:
    """Fields of a method class and of the classes it is made from, each with its declared type as text.

    Args:
        target: module and class, as in `METHODS`.
    """
    module, name = target.split(":")
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = {
        alias.name: node.module for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    found: dict[str, str] = {}
    for base in map(ast.unparse, classes[name].bases):
        found |= declared_options(f"{module if base in classes else imported[base]}:{base}")
    for line in classes[name].body:
        if isinstance(line, ast.AnnAssign) and "ClassVar" not in (kind := ast.unparse(line.annotation)):
            found[line.target.id] = kind
    found.pop("schedule", None)
    return found
