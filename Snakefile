# The grid of one profile: a rule per cell, one for the figures. Run it with `kvrepro grid PROFILE`.
import sys

from kvrepro.paths import PACKAGE, project_root, results_root
from kvrepro.runs.folder import CellFolder
from kvrepro.runs.profiles import load_profile

PROFILE = load_profile(config.get("profile", "tiny"))
ROOT = results_root() / PROFILE.name
MARKS = [folder.mark for folder in PROFILE.folders]
# what the figures are drawn with: a change of it draws them again, and runs no cell
FIGURE_CODE = sorted(map(str, [*(PACKAGE / "figures").glob("*.py"), PACKAGE / "analysis" / "method_table.py", PACKAGE / "runs" / "summary.py"]))

wildcard_constraints:
    cell="|".join(folder.cell_id for folder in PROFILE.folders),

localrules: figures

rule all:
    input: MARKS, ROOT / "index.html"

rule cell:
    # a mark and no results: Snakemake deletes the outputs of a job that fails or is begun again
    output: touch(CellFolder(ROOT / "{cell}", ROOT).mark)
    # one GPU per cell where GPUs are counted (`--gpus N`); without a limit the count means nothing
    resources: gpu=1
    # in the shell's place, so that the cell's parent is Snakemake and it ends with it
    shell:
        "mkdir -p {ROOT}/logs && exec {sys.executable} -m kvrepro.runs.stand_in $PPID kvrepro run --profile {PROFILE.name}"
        " --cell {wildcards.cell} --checked > {ROOT}/logs/$(echo {wildcards.cell} | tr / _).log 2>&1"

rule figures:
    input:
        MARKS,
        project_root() / "notebooks" / f"{PROFILE.notebook}.ipynb",
        FIGURE_CODE,
    output:
        ROOT / "index.html",
        ROOT / "summary.csv",
        ROOT / f"{PROFILE.notebook}.ipynb",
    shell:
        "exec {sys.executable} -m kvrepro.runs.stand_in $PPID kvrepro summary {PROFILE.name} > {ROOT}/summary.log 2>&1"
