"""Imports point down only, read from the syntax trees: one ordered line of package names."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import kvrepro
from kvrepro.paths import PACKAGE

# the whole rule: a package imports from those before it, and packages that stand together do not know each other
ORDER = (
    "kernels < errors < paths < holders < claims < files checks bars < benchmarks cache graders scores < models methods"
    " < engine < runs < grids < training < analysis bench < figures < pages < commands cli < __main__"
)
FLOOR_OF = {name: floor for floor, names in enumerate(ORDER.split(" < ")) for name in names.split()}
KERNELS = PACKAGE.parent / "kernels"


def module_files() -> dict[str, Path]:
    """Dotted name -> file, of every module of the package and of the folder `kernels`."""
    files = {}
    for root, prefix in ((PACKAGE, "kvrepro"), (KERNELS, "kvrepro.kernels")):
        for path in sorted(root.rglob("*.py")):
            parts = [prefix, *path.relative_to(root).with_suffix("").parts]
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


FILES = module_files()


@cache
def imports_of(module: str) -> tuple[tuple[str, int, bool], ...]:
    """`(imported module, line, at module level)` for every import of the package inside it; type checks left out."""
    path = FILES[module]
    tree = ast.parse(path.read_text(), str(path))
    lazy, typing_only = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            lazy.update(ast.walk(node))
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            typing_only.update(child for statement in node.body for child in ast.walk(statement))
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = []
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        for name in _imported(node, package):
            if name.split(".")[0] in ("kvrepro", "kernels"):
                found.append((name, node.lineno, node not in lazy))
    return tuple(found)


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parts = package.split(".")
        above = parts[: len(parts) - node.level + 1]
        base = ".".join([*above, *([node.module] if node.module else [])])
    # `from . import results` names a module, `from .results import RECORDS` something inside one
    return [full if (full := f"{base}.{alias.name}") in FILES else base for alias in node.names]


def room_of(module: str) -> str:
    """The package or top-level file that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", [m for m in FILES if room_of(m)])
def test_imports_point_down_only(module):
    room = room_of(module)
    assert room in FLOOR_OF, f"{module} has no place: add {room} to ORDER in {Path(__file__).name}"
    wrong = [
        f"{FILES[module].name}:{line} {module} imports {name}"
        for name, line, _ in imports_of(module)
        if room_of(name) not in ("", room) and FLOOR_OF[room_of(name)] >= FLOOR_OF[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_imports_at_module_level_form_no_circle():
    graph = {m: {name for name, _, eager in imports_of(m) if eager and name != m} for m in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, "import circle: " + " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for name in graph[module]:
                visit(name, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_name_of_the_order_exists():
    assert set(FLOOR_OF) == {room_of(m) for m in FILES} - {""}


def test_kernels_never_import_the_library():
    for module in (m for m in FILES if m.startswith("kvrepro.kernels")):
        outside = [name for name, _, _ in imports_of(module) if not name.startswith("kvrepro.kernels")]
        assert not outside, f"{module} imports {outside}"


def test_nothing_imports_the_command_line():
    for module in FILES:
        if module not in ("kvrepro.__main__", "kvrepro.cli") and not module.startswith("kvrepro.commands"):
            found = [n for n, _, _ in imports_of(module) if n.startswith(("kvrepro.cli", "kvrepro.commands"))]
            assert not found, f"{module} imports {found}"


def test_no_command_calls_another_one():
    # another command's `run` expects the arguments of its own parser; what two commands do lies in the library
    commands = {
        m for m in FILES if m.startswith("kvrepro.commands.") and "\ndef add_arguments(" in FILES[m].read_text()
    }
    assert len(commands) > 10
    for module in commands:
        found = {name for name, _, _ in imports_of(module)} & commands
        assert not found, f"{module} imports {found}"


def test_only_paths_and_the_kernels_launch_know_the_names_of_environment_variables():
    # a message may mention one; a text that is nothing but the name is a look-up
    users = [module for module, path in FILES.items() if re.search(r"""["']KVREPRO_\w+["']""", path.read_text())]
    # the kernels import nothing of the library, so their one switch is read where they are launched
    assert sorted(users) == ["kvrepro.kernels.launch", "kvrepro.paths"]


# what must load without torch
LIGHT = (
    "graders",
    "scores.metrics",
    "scores.statistics",
    "figures.theme",
    "figures.budget_curves",
    "figures.methods",
    "figures.efficiency",
    "figures.predictor",
    "pages.report",
    "runs.config",
    "runs.profiles",
    "runs.folder",
    "benchmarks.table",
    "methods.table",
    "models.table",
    "cli",
)


# what takes long to load, by who needs it: computing, algebra, rows, notebooks, tables and figures
SLOW = {
    name: kind
    for kind, names in {
        "torch": "torch transformers triton safetensors",
        "algebra": "sympy math_verify",
        "rows": "datasets",
        "notebooks": "papermill jupyter_client",
        "numbers": "numpy",
        "tables": "pandas scipy statsmodels matplotlib seaborn",
    }.items()
    for name in names.split()
}
# of transformers what a model is made of; the rest of it loads as it is used
MODELLING = ("transformers.integrations", "transformers.masking_utils")


@cache
def slow_parts(module: str) -> frozenset[str]:
    """What slow things importing the module loads, by its own imports at module level or by those of the others."""
    tree = ast.parse(FILES[module].read_text())
    names = {a.name for node in tree.body if isinstance(node, ast.Import) for a in node.names}
    names |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level}
    own = {SLOW[name.split(".")[0]] for name in names if name.split(".")[0] in SLOW}
    own |= {"modelling" for name in names if name.startswith(MODELLING)}
    return frozenset(own).union(*(slow_parts(n) for n, _, eager in imports_of(module) if eager and n in FILES))


@pytest.mark.parametrize("module", FILES)
def test_an_import_inside_a_function_keeps_something_slow_out(module):
    idle = [
        f"{FILES[module].name}:{line} {module} imports {name} in a function, which keeps nothing slow out: move it up"
        for name, line, eager in imports_of(module)
        if not eager and name in FILES and slow_parts(name) <= slow_parts(module)
    ]
    assert not idle, "\n".join(idle)


def test_grading_drawing_and_command_line_start_without_torch():
    code = "import sys, " + ", ".join(["kvrepro", *(f"kvrepro.{name}" for name in LIGHT)])
    code += "; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"loaded: {done.stdout.strip()}"


def test_every_public_name_can_be_imported():
    for name in kvrepro.__all__:
        assert getattr(kvrepro, name) is not None
    with pytest.raises(AttributeError, match="public names: generate"):
        _ = kvrepro.no_such_name


def test_of_the_checkout_only_the_kernels_are_a_part_of_the_package():
    assert kvrepro.__path__ == [str(PACKAGE)]
    for folder in ("tests", "notebooks"):
        assert importlib.util.find_spec(f"kvrepro.{folder}") is None, f"kvrepro.{folder} can be imported"
