"""Every code block of README and docs runs, and every name of ours in their text exists."""

from __future__ import annotations

import ast
import builtins
import re
from importlib import import_module

import pytest
import yaml

import kvrepro
from kvrepro.models.table import model_table
from kvrepro.runs.profiles import parse_profile

from .documents import PAGES, ROOT, Block, blocks, code_spans, paragraphs, variables_read

# shell blocks: test_documented_commands.py; text is the tree of README and formulas
LANGUAGES = {"bash", "python", "yaml", "text"}
FOLDERS = ("kvrepro", "kernels", "notebooks", "nbs_params", "measurements", "tests", "docs")


def test_every_code_block_is_of_a_language_that_the_tests_run():
    other = {(b.page, b.language) for b in blocks() if b.language not in LANGUAGES}
    assert not other, f"blocks that no test runs: {other}"


class Session:
    """The Python blocks of one page in order, in one namespace."""

    def __init__(self, page: str):
        self.blocks = [b for b in blocks("python") if b.page == page]
        self.names: dict[str, object] = {"__name__": "__main__", "kvrepro": kvrepro}
        self.done = 0

    def run_through(self, block: Block) -> None:
        while self.done <= block.number:
            text = self.blocks[self.done].text
            # before it runs: a block that fails, fails once
            self.done += 1
            run_block(text, self.names)


# names that the sentences around a block introduce, and what stands for them here
PRELUDE = {
    "prompt_ids": "prompt_ids = tokenizer.encode('A m:=7; B y:=6; C n:=y-y; D b:=n*m; find b')",
    "reply_ids": "reply_ids = tokenizer.encode('A m:=7; m=7 ' * 50)",
}


def free_names(tree: ast.AST) -> set[str]:
    """Names that are read and nowhere bound; what a function or class binds counts as bound everywhere."""
    names = [n for n in ast.walk(tree) if isinstance(n, ast.Name)]
    bound = {n.id for n in names if not isinstance(n.ctx, ast.Load)}
    bound |= {a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)}
    bound |= {d.name for d in ast.walk(tree) if isinstance(d, ast.ClassDef | ast.FunctionDef)}
    bound |= {(a.asname or a.name).split(".")[0] for a in ast.walk(tree) if isinstance(a, ast.alias)}
    return {n.id for n in names if isinstance(n.ctx, ast.Load)} - bound


def run_block(text: str, names: dict[str, object]) -> None:
    """Run statement by statement; an expression with a comment below that is an expression too must have its value."""
    lines = text.splitlines()
    for statement in ast.parse(text).body:
        missing = free_names(statement) - set(names) - set(dir(builtins))
        for name in sorted(missing & set(PRELUDE)):
            exec(PRELUDE[name], names)
        code = ast.Module([statement], []) if not isinstance(statement, ast.Expr) else ast.Expression(statement.value)
        if isinstance(code, ast.Module):
            exec(compile(code, "<documentation>", "exec"), names)
            continue
        value = eval(compile(code, "<documentation>", "eval"), names)
        below = lines[statement.end_lineno] if statement.end_lineno < len(lines) else ""
        if below.startswith("# ") and is_expression(below[2:]):
            assert repr(value) == below[2:].strip()


def is_expression(text: str) -> bool:
    try:
        ast.parse(text.strip(), mode="eval")
    except SyntaxError:
        return False
    return True


@pytest.fixture(scope="module")
def sessions():
    return {page: Session(page) for page in {b.page for b in blocks("python")}}


@pytest.mark.parametrize("block", blocks("python"), ids=lambda b: f"{b.page}-{b.number}")
def test_python_block(sessions, block):
    sessions[block.page].run_through(block)


def test_every_name_of_the_prelude_is_needed():
    needed = set().union(*(free_names(ast.parse(b.text)) for b in blocks("python")))
    assert set(PRELUDE) <= needed, "no block reads these any more"


def test_a_value_that_a_comment_states_is_compared():
    with pytest.raises(AssertionError):
        run_block("1 + 1\n# 3\n", {})
    run_block("1 + 1\n# 2\n1 + 1\n# or so\n", {})


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda b: f"{b.page}-{b.number}")
def test_yaml_block(block, monkeypatch, tmp_path):
    content = yaml.safe_load(block.text)
    path = tmp_path / "block.yaml"
    path.write_text(block.text)
    if "panels" in content:
        assert parse_profile("block", path).cells
        return
    assert all({"source", "predictor"} & set(row) for row in content.values()), "not a model table: say how to test it"
    monkeypatch.setenv("KVREPRO_MODELS", str(path))
    assert set(content) <= set(model_table())


def test_the_tree_is_the_checkouts():
    (tree,) = [b.text for b in blocks("text") if b.page == "README.md"]
    parents, found = [], []
    for line in tree.splitlines():
        name = line.split()[0]
        parents = [*parents[: (len(line) - len(line.lstrip())) // 2], name]
        found.append("".join(parents))
    missing = [name for name in found if not (ROOT / name).is_dir()]
    assert not missing, f"README's tree names folders that are not there: {missing}"
    packages = [p.parent.name for p in (ROOT / "kvrepro").glob("*/__init__.py")]
    assert sorted(f"kvrepro/{p}/" for p in packages) == sorted(
        n for n in found if n.startswith("kvrepro/") and n != "kvrepro/"
    )


def test_readme_is_read_in_five_minutes():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 220


def test_readme_lists_every_notebook_and_every_page():
    readme = (ROOT / "README.md").read_text()
    notebooks = {f"| `{p.stem}` |" for p in (ROOT / "notebooks").glob("*.ipynb")}
    pages = {f"(docs/{p.name})" for p in (ROOT / "docs").glob("*.md")}
    missing = [name for name in sorted(notebooks | pages) if name not in readme]
    assert not missing, f"README does not name {missing}"


def test_every_path_that_a_text_names_exists():
    spans = {span for paragraph in paragraphs() for span in code_spans(paragraph)}
    named = {s for s in spans if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", s) and "NAME" not in s}
    lost = sorted(name for name in named if not (ROOT / name).exists())
    assert not lost, f"no such files: {lost}"


def test_every_python_name_of_the_package_that_the_text_names_exists():
    spans = [span for paragraph in paragraphs() for span in code_spans(paragraph)]
    for span in spans:
        if not re.fullmatch(r"kvrepro(\.\w+)+", span):
            continue
        module, _, name = span.rpartition(".")
        found = import_module(module)
        assert hasattr(found, name) or import_module(span), span


def test_the_environment_variables_that_the_pages_name_are_those_that_are_read():
    named = set(re.findall(r"\bKVREPRO_[A-Z]+", "\n".join(page.read_text() for page in PAGES)))
    assert named == variables_read()
