"""Imports point down only: STYLE.md section 3 with the amendments of issue 2, read from the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import kvrepro
from kvrepro.paths import PACKAGE

# layer -> modules, the most specific entry wins; a module may import its own layer as long as no circle forms
LAYERS = {
    0: "kvrepro kernels errors parameter_values prompt_forms paths predictor:table judge:table labels:table "
    "planning:table comparison:table",
    # `methods` and `models` themselves are tables (their classes and loaders lie above); the other packages are empty
    1: "config schedule tokens noise completions results values metrics statistics power graders benchmarks "
    "profiles sampling_config provenance asset_folder methods:table methods.budgets models:table "
    "models.checkpoint_files models.fetched planning.gpus tiny:table tiny.language tiny.problems tiny.split "
    "labels.questions labels.stages labels.maps predictor.recipe token_picture efficiency.clock "
    "methods.declaration methods.declared_options models.identity locks child stopping json_lines",
    2: "cache cache_shape attention decoder graph_decoder native_decoder late_tokens timeline sampling rotary "
    "query_ring prefill models.random_weights models.architectures models.memory models.loading tiny.architecture "
    "tiny.batches tiny.checkpoint",
    3: "methods labels.attention labels.memory predictor.head predictor.loss predictor.cost judge.head "
    "query_statistics future_attention assets",
    4: "engine live_rows gpu_decode generation comparison.fidelity labels predictor judge tiny.train",
    5: "kernel preflight workflow runner execution summary progress figures report pictures comparison "
    "efficiency predictor.figures predictor.pipeline models.fetching planning tiny.card resolution",
    6: "cli __main__ commands",
}
LAYER_OF = {
    name if name == "kvrepro" else f"kvrepro.{name}": layer for layer, names in LAYERS.items() for name in names.split()
}
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


def layer_of(module: str) -> int:
    """Layer of the longest entry that covers the module."""
    if f"{module}:table" in LAYER_OF:
        return LAYER_OF[f"{module}:table"]
    name = module
    while name not in LAYER_OF or (name == "kvrepro" and module != "kvrepro"):
        name = name.rpartition(".")[0]
        if not name:
            raise AssertionError(f"{module} has no layer: add it to LAYERS in {Path(__file__).name}")
    return LAYER_OF[name]


@pytest.mark.parametrize("module", FILES)
def test_imports_point_down_only(module):
    upward = [
        f"{FILES[module].name}:{line} {module} (layer {layer_of(module)}) imports {name} (layer {layer_of(name)})"
        for name, line, _ in imports_of(module)
        if layer_of(name) > layer_of(module)
    ]
    assert not upward, "\n".join(upward)


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


def test_every_layer_entry_names_a_module_that_exists():
    named = {entry.removesuffix(":table") for entry in LAYER_OF}
    assert not named - set(FILES), f"entries without a file: {sorted(named - set(FILES))}"


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
    commands = {m for m in FILES if m.startswith("kvrepro.commands.") and "\nNAME = " in FILES[m].read_text()}
    assert len(commands) > 10
    for module in commands:
        found = {name for name, _, _ in imports_of(module)} & commands
        assert not found, f"{module} imports {found}"


def test_methods_and_engine_do_not_know_benchmarks_or_graders():
    for module in FILES:
        if module == "kvrepro.engine.engine" or module.startswith("kvrepro.methods.table"):
            found = [
                n for n, _, _ in imports_of(module) if n.startswith(("kvrepro.benchmarks.table", "kvrepro.graders"))
            ]
            assert not found, f"{module} imports {found}"


def test_only_paths_knows_the_names_of_environment_variables():
    users = [module for module, path in FILES.items() if '"KVREPRO_' in path.read_text().replace("'", '"')]
    assert users == ["kvrepro.paths"]


def test_grading_drawing_and_command_line_start_without_torch():
    names = ("graders", "metrics", "statistics", "figures", "config", "profiles", "results", "cli")
    code = "import sys, " + ", ".join(["kvrepro", *(f"kvrepro.{n}" for n in names)])
    code += "; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", f"loaded: {done.stdout.strip()}"


def test_every_public_name_can_be_imported():
    for name in kvrepro.__all__:
        assert getattr(kvrepro, name) is not None
    with pytest.raises(AttributeError, match="public names: generate"):
        _ = kvrepro.no_such_name
