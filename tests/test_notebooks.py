"""Notebooks are programs: one parameters cell that papermill reads whole, no outputs, no tricks, real imports."""

from __future__ import annotations

import ast
import importlib
import json
import re
from importlib.util import find_spec

import pytest

from kvrepro.paths import PACKAGE
from kvrepro.runs.config import FIELD_NAMES, CellConfig

FOLDER = PACKAGE.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAX_LINES = 20  # of a code cell; the parameters cell has one line per parameter
MAX_FUNCTION_LINES = 5
# the notebook that shows how to write a method
CLASS_IS_THE_SUBJECT = {"your_method.ipynb"}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.name)


def cells(path, kind="code"):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def tags(cell):
    return cell["metadata"].get("tags", [])


def source(cell):
    return "".join(cell["source"])


def parameters_cell(path):
    (cell,) = [c for c in cells(path) if "parameters" in tags(c)]
    return cell


def syntax_tree(cell):
    # `%magic` and `!command` lines are IPython's, not Python's
    return ast.parse("\n".join("" if re.match(r"\s*[%!]", line) else line for line in source(cell).split("\n")))


def test_there_are_notebooks():
    assert {"cell.ipynb", "budget_curves.ipynb"} <= {p.name for p in NOTEBOOKS}


@each_notebook
def test_there_is_exactly_one_parameters_cell_and_it_comes_first(path):
    tagged = [i for i, c in enumerate(cells(path)) if "parameters" in tags(c)]
    assert tagged == [0], "papermill injects at the top when no cell is tagged, and later assignments win"


@each_notebook
def test_papermill_sees_every_parameter_with_its_default(path):
    papermill = pytest.importorskip("papermill", reason="papermill is not installed")
    lines = [line for line in source(parameters_cell(path)).split("\n") if line.strip()]
    # one assignment a line, with type and help: the form that papermill's regular expression reads
    assert all(re.fullmatch(r"\w+: \w+ = [^=#]+  # .+", line) for line in lines), lines
    assigned = {line.split(":")[0]: line.split(" = ")[1].split("  #")[0] for line in lines}
    seen = papermill.inspect_notebook(str(path))
    assert {name: p["default"] for name, p in seen.items()} == assigned
    assert all(p["help"] and p["inferred_type_name"] != "None" for p in seen.values())


def test_the_cell_notebook_takes_every_field_of_the_config_and_its_folder():
    lines = source(parameters_cell(FOLDER / "cell.ipynb")).splitlines()
    assert [line.split(":")[0] for line in lines] == [*FIELD_NAMES, "folder"]


def test_the_cell_notebook_hands_every_parameter_on_to_the_config():
    calls = [
        node
        for cell in cells(FOLDER / "cell.ipynb")
        for node in ast.walk(syntax_tree(cell))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("CellConfig")
    ]
    assert len(calls) == 1
    text = ast.unparse(calls[0])
    assert all(re.search(rf"\b{name}=(dict\()?{name}\b", text) for name in FIELD_NAMES), text


def test_the_defaults_of_the_cell_notebook_are_a_valid_cell():
    values: dict[str, object] = {}
    exec(source(parameters_cell(FOLDER / "cell.ipynb")), values)
    config = CellConfig.from_mapping({name: values[name] for name in FIELD_NAMES})
    assert config.model in ("tiny-r1-llama", "tiny-r1-qwen")
    assert config.n_problems is not None
    assert config.n_problems <= 10


def test_the_cell_notebook_reads_records_with_the_check_against_the_manifest():
    # `read_rows` takes a file that lost whole lines for complete; `read_records` counts them
    text = "\n".join(source(c) for c in cells(FOLDER / "cell.ipynb"))
    assert "read_records(" in text
    assert "read_rows(" not in text


def test_a_notebook_that_takes_a_profile_reads_the_protocol_from_its_cells():
    takers = [p for p in NOTEBOOKS if source(parameters_cell(p)).startswith("profile:")]
    assert {"main_table.ipynb", "ablations.ipynb"} <= {p.name for p in takers}
    for path in takers:
        claimed = re.search(r"[Pp]rotocol `(fair|as_published)`", "\n".join(source(c) for c in cells(path, "markdown")))
        assert not claimed, f"{path.name} claims {claimed[0]} of cells that it does not choose"
        if "method_table(" in (code := "\n".join(source(c) for c in cells(path))):
            assert "print(explain_protocol(table))" in code or "print(protocol)" in code


@each_notebook
def test_no_output_is_stored_outside_cells_that_keep_theirs(path):
    for cell in cells(path):
        if "keep_output" not in tags(cell):
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@each_notebook
def test_metadata_names_the_environments_own_kernel_and_no_run(path):
    metadata = json.loads(path.read_text())["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert "papermill" not in metadata


@each_notebook
def test_no_cell_installs_patches_the_path_or_names_an_absolute_one(path):
    forbidden = {
        "a shell command or pip": r"^\s*(!|%pip|%conda|%%bash|%%sh)|subprocess|os\.system",
        "sys.path": r"sys\.path",
        "an absolute path": r"[\"'](/|~/|[A-Za-z]:\\)",
        "the environment": r"os\.environ|getenv",
    }
    for cell in cells(path):
        for what, pattern in forbidden.items():
            found = re.search(pattern, source(cell), re.MULTILINE)
            assert not found, f"{what}: {source(cell)}"


@each_notebook
def test_code_cells_are_short_and_define_no_classes(path):
    for cell in cells(path):
        if "parameters" not in tags(cell):
            assert len(source(cell).splitlines()) <= MAX_LINES, source(cell)
        for node in ast.walk(syntax_tree(cell)):
            assert not isinstance(node, ast.ClassDef) or path.name in CLASS_IS_THE_SUBJECT, source(cell)
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, source(cell)


@each_notebook
def test_no_name_of_an_earlier_cell_is_assigned_again(path):
    owner: dict[str, int] = {}
    for number, cell in enumerate(cells(path)):
        for name in top_level_names(syntax_tree(cell)):
            assert owner.setdefault(name, number) == number, f"code cell {number} assigns {name} again"


def top_level_names(tree):
    """Names that a cell's own statements bind; loop variables and imports may repeat."""
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            yield from (n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))


@each_notebook
def test_every_import_exists(path):
    for cell in cells(path):
        for node in ast.walk(syntax_tree(cell)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                # a name may also be a module of the package
                missing = [
                    a.name
                    for a in node.names
                    if not hasattr(module, a.name) and find_spec(f"{node.module}.{a.name}") is None
                ]
                assert not missing, f"{node.module} has no {missing}"


@each_notebook
def test_the_notebook_is_valid_and_begins_with_a_title(path):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    ids = [c.id for c in notebook.cells]
    assert len(set(ids)) == len(ids)


@each_notebook
def test_every_figure_follows_a_table_of_what_it_draws(path):
    # nbval compares text and skips pictures, so a drawing cell needs a table before it
    code = [source(c) for c in cells(path)]
    drawing = [i for i, text in enumerate(code) if "plt.show()" in text or "plt.subplots" in text]
    for i in drawing:
        before = code[max(0, i - 2) : i]
        assert any(
            re.search(r"(\.head\(|\.round\(|\.to_frame\(|DataFrame\(|\]\]|\bshow\w*\()", text) for text in before
        ), code[i]
