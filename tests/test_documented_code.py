"""Every code block of README and docs runs, and every name of ours in their text exists."""

from __future__ import annotations

import ast
import builtins
import re
from importlib import import_module

import pytest
import yaml

from kvrepro.models.table import model_table

from .documents import PAGES, ROOT, Block, blocks, code_spans, notebook_parameters, paragraphs

# shell blocks: test_documented_commands.py
LANGUAGES = {"bash", "python", "yaml"}


def test_every_code_block_is_of_a_language_that_the_tests_run():
    other = {(b.page, b.language) for b in blocks() if b.language not in LANGUAGES}
    assert not other, f"blocks that no test runs: {other}"


class Session:
    """The Python blocks of one page in order, in one namespace."""

    def __init__(self, page: str):
        self.blocks = [b for b in blocks("python") if b.page == page]
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.done = 0

    def run_through(self, block: Block) -> None:
        while self.done <= block.number:
            text = self.blocks[self.done].text
            # before it runs: a block that fails, fails once
            self.done += 1
            missing = free_names(ast.parse(text)) - set(self.names) - set(dir(builtins))
            for name in sorted(missing & set(PRELUDE)):
                exec(PRELUDE[name], self.names)
            run_block(text, self.names)


# names that the sentences around a block introduce, and what stands for them here
PRELUDE = {
    # long enough that a budget of 192 evicts
    "questions": "from kvrepro.benchmarks.table import load_problems\n"
    "questions = [problem.question for problem in load_problems('chain-12', 2)]",
    "prompt_ids": "from kvrepro.models.tokens import render_prompt\n"
    "prompt_ids = render_prompt(tokenizer, 'A m:=7; B y:=6; C n:=y-y; D b:=n*m; find b')",
    "reply_ids": "reply_ids = tokenizer.encode(reply.text, add_special_tokens=False)",
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
    assert all({"source", "predictor"} & set(row) for row in content.values()), "not a model table: say how to test it"
    (tmp_path / "models.yaml").write_text(block.text)
    monkeypatch.setenv("KVREPRO_MODELS", str(tmp_path / "models.yaml"))
    assert set(content) <= set(model_table())


def test_every_notebook_parameter_that_the_text_names_exists():
    papermill = pytest.importorskip("papermill", reason="papermill is not installed")
    known: dict[str, set[str]] = {}
    for notebook, name in notebook_parameters():
        path = ROOT / "notebooks" / f"{notebook}.ipynb"
        assert path.is_file(), f"-p {name}: the paragraph names no notebook of ours"
        known.setdefault(notebook, set(papermill.inspect_notebook(str(path))))
        assert name in known[notebook], f"{notebook}.ipynb has no parameter {name}"


def test_every_python_name_of_the_package_that_the_text_names_exists():
    spans = [span for paragraph in paragraphs() for span in code_spans(paragraph)]
    for span in spans:
        if not re.fullmatch(r"kvrepro(\.\w+)+", span):
            continue
        module, _, name = span.rpartition(".")
        found = import_module(module)
        assert hasattr(found, name) or import_module(span), span


def test_the_environment_variables_that_the_pages_name_are_those_that_are_read():
    read = set(re.findall(r'"(KVREPRO_[A-Z]+)"', (ROOT / "kvrepro" / "paths.py").read_text()))
    named = set(re.findall(r"\bKVREPRO_[A-Z]+", "\n".join(page.read_text() for page in PAGES)))
    assert named == read
