# The grid of one profile: a rule per cell, one per panel whose throughput is measured, one for the figures. Run it with `kvrepro grid PROFILE`.
import sys

from kvrepro.paths import PACKAGE, committed_summary, project_root, results_root
from kvrepro.runs.folder import CellFolder
from kvrepro.runs.profiles import load_profile
from kvrepro.runs.throughput import Panel

PROFILE = load_profile(config.get("profile", "tiny"))
ROOT = results_root() / PROFILE.name
MARKS = [folder.mark for folder in PROFILE.folders]
PANELS = {panel.name: panel for panel in Panel.all_of(PROFILE)}
MEASURED = [panel.mark for panel in PANELS.values()]
# what the figures are drawn with: a change of it draws them again, and runs no cell
FIGURE_CODE = sorted(map(str, [
    *(PACKAGE / "figures").glob("*.py"),
    *(PACKAGE / "analysis" / f"{name}.py" for name in ("budget_findings", "method_table", "verdict")),
    *(PACKAGE / "runs" / f"{name}.py" for name in ("summary", "throughput")),
    *filter(None, [committed_summary(PROFILE.name)]),
]))

wildcard_constraints:
    cell="|".join(folder.cell_id for folder in PROFILE.folders),
    panel="|".join(PANELS),

localrules: figures

rule all:
    input: MARKS, MEASURED, ROOT / "index.html"

rule cell:
    # a mark and no results: Snakemake deletes the outputs of a job that fails or is begun again
    output: touch(CellFolder(ROOT / "{cell}", ROOT).mark)
    # before any measurement, so that those come when nothing is left to run
    priority: 1
    # one GPU per cell where GPUs are counted (`--gpus N`); without a limit the count means nothing
    resources: gpu=1
    # in the shell's place, so that the cell's parent is Snakemake and it ends with it
    shell:
        "mkdir -p {ROOT}/logs && exec {sys.executable} -m kvrepro.runs.stand_in $PPID kvrepro run --profile {PROFILE.name}"
        " --cell {wildcards.cell} --checked > {ROOT}/logs/$(echo {wildcards.cell} | tr / _).log 2>&1"

rule throughput:
    # its own cells alone: one that fails elsewhere does not keep this panel from being measured
    input: lambda wildcards: [folder.mark for folder in PANELS[wildcards.panel].folders]
    output: touch(ROOT / ".done" / "throughput" / "{panel}")
    # all cores, so nothing else of the grid runs beside it
    threads: workflow.cores
    resources: gpu=1
    shell:
        "mkdir -p {ROOT}/logs && exec {sys.executable} -m kvrepro.runs.processes $PPID kvrepro throughput {PROFILE.name}"
        " --panel {wildcards.panel} > {ROOT}/logs/throughput_$(echo {wildcards.panel} | tr / _).log 2>&1"

rule figures:
    input:
        MARKS,
        MEASURED,
        project_root() / "notebooks" / f"{PROFILE.notebook}.ipynb",
        FIGURE_CODE,
    output:
        ROOT / "index.html",
        ROOT / "summary.csv",
        ROOT / f"{PROFILE.notebook}.ipynb",
    shell:
        "exec {sys.executable} -m kvrepro.runs.stand_in $PPID kvrepro summary {PROFILE.name} > {ROOT}/summary.log 2>&1"
