"""Results that cannot be written can be read; a disk that is full or closed is one line with the way out."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from kvrepro.errors import RunError
from kvrepro.files import write_rows
from kvrepro.pages.report import Report
from kvrepro.paths import project_root, results_root
from kvrepro.runs.folder import MANIFEST, RECORD_FIELDS, RECORDS
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.provenance import provenance
from kvrepro.runs.summary import summarise_profile

from .. import panels

SMOKE = load_profile("smoke")
WORDS = dict(problem_id="chain-12-000", sample_id=0, status="ok", text="46", gold="46", answer="46", rule="exact")
# root writes anywhere unless it gives that right up
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.fixture
def closed():
    """Results of the profile `smoke`, all cells finished but the last, that nobody may change."""
    if WITHOUT_RIGHTS and not shutil.which(WITHOUT_RIGHTS[0]):
        pytest.skip("tests run as root, and setpriv of util-linux is not there to give root's rights up")
    panels.finish(SMOKE.cells[:-1], "smoke")
    for folder in SMOKE.folders[:-1]:
        write_rows(folder.path / RECORDS, [{**dict.fromkeys(RECORD_FIELDS, 1), **WORDS, "correct": True}])
        manifest = json.loads((folder.path / MANIFEST).read_text())
        (folder.path / MANIFEST).write_text(json.dumps({**manifest, **provenance("cpu"), "n_records": 1}))
    found = [results_root(), *results_root().rglob("*")]
    modes = {path: path.stat().st_mode for path in found}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    yield results_root()
    assert sorted(results_root().rglob("*")) == sorted(found[1:])
    for path, mode in modes.items():
        path.chmod(mode)


def kvrepro(*arguments, cwd=None):
    command = [*WITHOUT_RIGHTS, sys.executable, "-m", "kvrepro", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def test_the_state_of_closed_results_is_told(closed):
    done = kvrepro("status", "smoke", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["done"], found["left"]) == (len(SMOKE.cells) - 1, 1)


def test_closed_results_are_drawn_elsewhere(closed, tmp_path):
    done = kvrepro("summary", "smoke", "--out", "drawn", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "drawn"
    assert json.loads(done.stdout)["index"] == str(out / "index.html")
    names = {path.relative_to(out).as_posix() for path in out.rglob("*.*") if path.parent.name != "assets"}
    drawn = [f"figures/tiny-r1-llama.{suffix}" for suffix in ("png", "svg")]
    of_cells = [f"{c.cell_id}/{name}" for c in SMOKE.cells[:-1] for name in ("replies.html", "run.html", "run.ipynb")]
    made = ["index.html", "page.json", "summary.csv", "problems.csv", "budget_curves.ipynb", "budget_curves.html"]
    assert names == {*made, *drawn, *of_cells}
    # the folder is whole wherever it is copied to
    for page in out.rglob("*.html"):
        links = re.findall(r'(?:href|src)="((?!data:)[^"#]+)"', page.read_text())
        assert links and [link for link in links if not (page.parent / link).is_file()] == [], page


def test_beside_closed_results_nothing_is_drawn(closed):
    done = kvrepro("summary", "smoke")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("; set KVREPRO_RESULTS to a folder that you may write to (or give --out FOLDER)")


def test_a_cell_below_closed_results_is_refused(closed):
    done = kvrepro("run", "--profile", "smoke", "--cell", SMOKE.cells[-1].cell_id, "--checked")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "Permission denied" in line and line.endswith("; set KVREPRO_RESULTS to a folder that you may write to")


def test_a_notebook_that_draws_beside_the_results_is_refused(call, tmp_path, monkeypatch):
    root = tmp_path / "project"
    for name in ("nbs_params", "notebooks"):
        shutil.copytree(project_root() / name, root / name)
    notebook = root / "notebooks" / f"{SMOKE.notebook}.ipynb"
    notebook.write_text(notebook.read_text().replace('"out: str = ', '"away: str = '))
    monkeypatch.setenv("KVREPRO_ROOT", str(root))
    code, _, err = call("summary", "smoke", "--out", str(tmp_path / "out"))
    assert code == 2 and f"{notebook} has no parameter `out`" in err
    assert not (tmp_path / "out").exists()


FULL = "; free some space, or set KVREPRO_RESULTS, now {results}, to a folder on another disk"
CLOSED = "; set KVREPRO_RESULTS to a folder that you may write to"
ERRORS = {
    "a full disk": (OSError(errno.ENOSPC, "No space left on device"), FULL),
    "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), FULL),
    "a full disk in a notebook": (RunError("cell.ipynb: OSError: [Errno 28] No space left on device"), FULL),
    "a disk to read from": (OSError(errno.EROFS, "Read-only file system", "{results}/x/y"), CLOSED),
    "somebody else's folder": (PermissionError(errno.EACCES, "Permission denied", "{results}"), CLOSED),
    "a folder that is not for results": (PermissionError(errno.EACCES, "Permission denied", "/srv/models"), ""),
    "another error": (FileNotFoundError(errno.ENOENT, "No such file", "{results}/x"), ""),
    "a run that failed": (RunError("the kernel died"), ""),
}


@pytest.mark.parametrize(("error", "way_out"), ERRORS.values(), ids=ERRORS)
def test_the_way_out_of_a_disk_is_one_line(call, monkeypatch, error, way_out):
    results = str(results_root())
    if getattr(error, "filename", None):
        error.filename = error.filename.replace("{results}", results)

    def fails(_):
        raise error

    monkeypatch.setattr("kvrepro.commands.status.run", fails)
    code, _, err = call("status", "smoke")
    assert code == 1
    assert err == f"kvrepro status: {error}{way_out.replace('{results}', results)}\n"


def test_damage_is_named_where_it_counts_as_missing(call, monkeypatch, tmp_path):
    panels.finish(SMOKE.cells[:2], "smoke")
    (SMOKE.folders[0].path / RECORDS).write_text("{}\n{}\n")
    report = Report(summarise_profile(SMOKE), tmp_path / "index.html", [], 0)
    monkeypatch.setattr("kvrepro.pages.report.write_report", lambda *_: report)
    code, out, err = call("summary", "smoke", "--json")
    assert code == 0 and json.loads(out)["cells"] == 1
    said = "records.jsonl has 2 rows, manifest.json says 0; run the grid again"
    assert err == f"{SMOKE.cells[0].cell_id} counts as missing: {said}\n"
