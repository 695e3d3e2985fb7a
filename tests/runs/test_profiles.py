"""Profiles: every shipped file parses; a mistake in one is an error that says where it is."""

from __future__ import annotations

import pytest

from kvrepro.errors import KvreproError, UnknownNameError
from kvrepro.paths import PACKAGE
from kvrepro.runs.profiles import load_profile, profile_names

SHIPPED = sorted(p.stem for p in (PACKAGE.parent / "nbs_params").glob("*.yaml"))
PANEL = "{model: tiny-r1-llama, benchmark: chain-12, budgets: [160, 192]}"


@pytest.fixture
def write_profile(tmp_path, monkeypatch):
    """Write `nbs_params/NAME.yaml` of a temporary project."""
    monkeypatch.setenv("KVREPRO_ROOT", str(tmp_path))
    (tmp_path / "nbs_params").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "budget_curves.ipynb").touch()

    def write(text: str, name: str = "mine") -> str:
        (tmp_path / "nbs_params" / f"{name}.yaml").write_text(text)
        return name

    return write


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_parses_into_distinct_cells(name):
    profile = load_profile(name)
    assert profile.name == name
    assert profile.title
    assert profile.cells
    assert len({cell.cell_id for cell in profile.cells}) == len(profile.cells)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profile_has_a_full_cell_for_every_compressed_panel(name):
    cells = load_profile(name).cells
    panels = {(c.model, c.benchmark) for c in cells if c.method != "full"}
    assert panels <= {(c.model, c.benchmark) for c in cells if c.method == "full"}


def test_methods_and_budgets_are_crossed_and_full_comes_once_without_knobs(write_profile):
    text = f"methods: [full, window, dynts]\ndefaults: {{window: 16, ratio: 0.5, seed: 7}}\npanels:\n  - {PANEL}\n"
    cells = load_profile(write_profile(text)).cells
    assert [(c.method, c.budget) for c in cells] == [
        ("full", None),
        ("window", 160),
        ("window", 192),
        ("dynts", 160),
        ("dynts", 192),
    ]
    assert (cells[0].window, cells[0].ratio) == (None, None)
    assert {c.seed for c in cells} == {7}
    assert {c.window for c in cells[1:]} == {16}


def test_a_panel_overrides_the_defaults(write_profile):
    panel = PANEL.replace("}", ", seed: 9}")
    cells = load_profile(write_profile(f"methods: [window]\ndefaults: {{seed: 7}}\npanels: [{panel}]\n")).cells
    assert {c.seed for c in cells} == {9}


def test_sampling_of_the_models_row_is_taken_unless_the_profile_names_its_own(write_profile):
    panel = "{model: smollm2-135m, benchmark: math500}"
    [cell] = load_profile(write_profile(f"panels: [{panel}]\n")).cells
    assert (cell.temperature, cell.top_p, cell.top_k) == (0.2, 0.9, 50)
    [cell] = load_profile(write_profile(f"defaults: {{temperature: 1.0}}\npanels: [{panel}]\n")).cells
    assert (cell.temperature, cell.top_p) == (1.0, 0.9)


def test_without_methods_only_the_full_cache_runs(write_profile):
    cells = load_profile(write_profile(f"panels: [{PANEL}]\n")).cells
    assert [c.method for c in cells] == ["full"]


def test_names_come_from_the_project_folder(write_profile):
    write_profile(f"panels: [{PANEL}]\n", "two")
    write_profile(f"panels: [{PANEL}]\n", "one")
    assert profile_names() == ["one", "two"]


def test_unknown_profile_lists_the_known_ones(write_profile):
    write_profile(f"panels: [{PANEL}]\n", "one")
    with pytest.raises(UnknownNameError, match="unknown profile 'smoek'; known: one"):
        load_profile("smoek")


@pytest.mark.parametrize("name", ["", "one.yaml", "../nbs_params/one", "./one"])
def test_a_profile_is_a_name_and_no_path(write_profile, name):
    # the name becomes a folder below the results
    write_profile(f"panels: [{PANEL}]\n", "one")
    with pytest.raises(UnknownNameError, match="known: one"):
        load_profile(name)


def test_bad_yaml_names_the_file(write_profile):
    with pytest.raises(KvreproError, match=r"mine\.yaml is not valid YAML"):
        load_profile(write_profile("panels: [{model: a"))


@pytest.mark.parametrize("text", ["", "[]", "title: x\n", "panels: []\n", "panels:\n", "just words\n"])
def test_a_profile_without_panels_says_what_was_expected(write_profile, text):
    with pytest.raises(KvreproError, match=r"mine\.yaml: expected a mapping with `panels`"):
        load_profile(write_profile(text))


def test_unknown_key_of_the_file_lists_the_known_ones(write_profile):
    with pytest.raises(UnknownNameError, match=r"unknown key of mine\.yaml 'default'; known: defaults, methods"):
        load_profile(write_profile(f"default: {{}}\npanels: [{PANEL}]\n"))


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        ("{model: tiny-r1-llama, benchmark: chain-12, budgets: [192], windw: 3}", "unknown parameter 'windw'"),
        ("{model: tiny-r1-llama, benchmark: nonsense, budgets: [192]}", "unknown benchmark 'nonsense'"),
        ("{model: tiny-r1-llama, benchmark: chain-12, budgets: [192], window: 200}", "window=200"),
        ("{model: tiny-r1-llama, benchmark: chain-12, budgets: ['192']}", "expected int"),
        ("{benchmark: chain-12, budgets: [192]}", "'model' is missing"),
        # a budget must not vanish because it was written under the singular or as a bare number
        ("{model: tiny-r1-llama, benchmark: chain-12, budget: 192}", "budgets"),
        ("{model: tiny-r1-llama, benchmark: chain-12, budgets: 192}", "budgets"),
        ("{model: tiny-r1-llama, benchmark: chain-12}", "budgets"),
        ("{model: tiny-r1-llama, benchmark: chain-12, budgets: [192], method: dynts}", "method"),
        ("tiny-r1-llama", "mapping"),
    ],
)
def test_a_mistake_in_a_panel_names_the_panel(write_profile, panel, message):
    with pytest.raises(KvreproError, match=message) as caught:
        load_profile(write_profile(f"methods: [window]\npanels:\n  - {PANEL}\n  - {panel}\n"))
    assert "mine.yaml, panel 2" in str(caught.value)


def test_a_cell_that_is_listed_twice_names_file_and_panel(write_profile):
    with pytest.raises(KvreproError, match="listed twice") as caught:
        load_profile(write_profile(f"panels:\n  - {PANEL}\n  - {PANEL}\n"))
    assert "mine.yaml" in str(caught.value)
    assert "panel 2" in str(caught.value)


@pytest.mark.parametrize("line", ["defaults:", "defaults: [1]", "methods: window", "methods:", "panels: {a: b}"])
def test_a_key_of_the_wrong_type_is_named(write_profile, line):
    panels = "" if line.startswith("panels") else f"panels: [{PANEL}]\n"
    # an empty `defaults:` may mean "none"; whatever happens, it is no traceback of Python's own
    name = write_profile(f"{line}\n{panels}")
    if line == "defaults:":
        assert load_profile(name).cells
    else:
        with pytest.raises(KvreproError, match=line.split(":")[0]):
            load_profile(name)


def test_a_cell_is_found_by_id_and_by_hash(write_profile):
    profile = load_profile(write_profile(f"methods: [full, window]\npanels: [{PANEL}]\n"))
    cell = profile.cells[1]
    assert profile.cell(cell.cell_id) is cell
    assert profile.cell(cell.hash8) is cell
    with pytest.raises(UnknownNameError) as caught:
        profile.cell("nothing")
    assert all(c.cell_id in str(caught.value) for c in profile.cells)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_profile_with_paper_marks_finds_the_papers_value_for_every_cell(name):
    from kvrepro.benchmarks.table import benchmark_entry
    from kvrepro.figures.budget_curves import paper_values
    from kvrepro.models.table import model_entry

    profile = load_profile(name)
    if not profile.paper_marks:
        pytest.skip(f"profile {name} draws no marks from the paper")
    for cell in (c for c in profile.cells if c.method == "dynts"):
        # called with the titles, as the notebook of the figures does
        readings = paper_values(model_entry(cell.model).title, benchmark_entry(cell.benchmark).title)
        assert cell.budget in set(readings.budget_tokens), (cell.model, cell.benchmark, cell.budget)


def test_two_files_of_one_name_are_refused(write_profile, tmp_path):
    source = "import kvrepro\n\n\nclass Mine(kvrepro.EvictionMethod):\n    pass\n"
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(source)
    text = f"methods: [full, a.py:Mine, b.py:Mine]\npanels:\n  - {PANEL}\n"
    with pytest.raises(KvreproError, match=r"panel 1: .*a.py:Mine and .*b.py:Mine are both 'mine': give one another"):
        load_profile(write_profile(text))
    two = text.replace("a.py:Mine, b.py:Mine", "{method: a.py:Mine}, {method: a.py:Mine, window: 16}")
    assert len(load_profile(write_profile(two)).cells) == 5


def test_a_class_in_a_file_is_looked_for_from_the_checkout(write_profile, tmp_path, monkeypatch):
    source = "import kvrepro\n\n\nclass Mine(kvrepro.EvictionMethod):\n    pin_question: bool = True\n"
    (tmp_path / "mine.py").write_text(source)
    # jobs of a grid stand elsewhere than whoever began it
    monkeypatch.chdir("/")
    methods = "[full, {method: 'mine.py:Mine', options: {sinks: 4}}]"
    cells = load_profile(write_profile(f"methods: {methods}\npanels: [{PANEL}]\n")).cells
    assert [c.method for c in cells[1:]] == [f"{tmp_path / 'mine.py'}:Mine"] * 2
    assert [c.label for c in cells] == ["full", "mine + sinks=4", "mine + sinks=4"]
    with pytest.raises(KvreproError, match=r"mine.yaml, panel 1: method .*/nowhere.py:Mine: .* cannot be read"):
        load_profile(write_profile(f"methods: ['nowhere.py:Mine']\npanels: [{PANEL}]\n"))
