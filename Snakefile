# The grid of one profile: a rule per cell, one per part of a cell that is split, one per panel whose throughput is
# measured, one for the figures. `kvrepro grid PROFILE` writes the plan that this reads, and nothing else is read: it is
# read once more inside every job of a cluster.
import json
from pathlib import Path

PLAN = json.loads(Path(config["plan"]).read_text())
CELLS, PANELS, FIGURES = PLAN["cells"], PLAN["panels"], PLAN["figures"]
# empty files and no results: Snakemake deletes the outputs of a job that fails or is begun again
MARKS = Path(PLAN["marks"])
# what comes before a job's own words in its log, which earlier attempts may have begun
BEGUN = "== $(date -u +%Y-%m-%dT%H:%M:%SZ) $(uname -n) ${{SLURM_JOB_ID:+SLURM job ${{SLURM_JOB_ID:-}}}}"
# in the shell's place, so that the process' parent is Snakemake and it ends with it
KVREPRO = f"cd {{PLAN[directory]:q}} && echo {BEGUN} >> {{params.log:q}} && exec {{PLAN[python]:q}} -m kvrepro.runs."
RUN = (
    KVREPRO + "stand_in $PPID kvrepro run --profile {PLAN[profile]} --cell {wildcards.cell:q} --checked --json"
    " --planned {config[plan]:q}"
)

wildcard_constraints:
    cell="|".join(CELLS),
    part=r"\d+-of-\d+",
    panel="|".join(PANELS),

localrules: all, figures

rule all:
    input: PLAN["targets"]

rule cell:
    # a cell in parts is put together when all are there
    input: lambda wildcards: [MARKS / "shards" / wildcards.cell / part for part in CELLS[wildcards.cell]["parts"]]
    output: touch(MARKS / "cells" / "{cell}")
    params:
        log=lambda wildcards: CELLS[wildcards.cell]["log"],
        ask=lambda wildcards: CELLS[wildcards.cell]["whole"]["ask"],
    priority: lambda wildcards: CELLS[wildcards.cell]["priority"]
    resources:
        gpu=lambda wildcards: CELLS[wildcards.cell]["whole"]["gpus"],
        mem_mb=lambda wildcards: CELLS[wildcards.cell]["whole"]["mem_mb"],
        runtime=lambda wildcards: CELLS[wildcards.cell]["whole"]["runtime_min"],
    shell:
        RUN + " --gpus {resources.gpu} >> {params.log:q} 2>&1"

rule shard:
    output: touch(MARKS / "shards" / "{cell}" / "{part}")
    params:
        log=lambda wildcards: CELLS[wildcards.cell]["log"].removesuffix(".log") + f".{wildcards.part}.log",
        shard=lambda wildcards: wildcards.part.replace("-of-", "/"),
        ask=lambda wildcards: CELLS[wildcards.cell]["part"]["ask"],
    priority: lambda wildcards: CELLS[wildcards.cell]["priority"]
    resources:
        gpu=lambda wildcards: CELLS[wildcards.cell]["part"]["gpus"],
        mem_mb=lambda wildcards: CELLS[wildcards.cell]["part"]["mem_mb"],
        runtime=lambda wildcards: CELLS[wildcards.cell]["part"]["runtime_min"],
    shell:
        RUN + " --shard {params.shard} --gpus {resources.gpu} >> {params.log:q} 2>&1"

rule throughput:
    # its own cells alone: one that fails elsewhere does not keep this panel from being measured
    input: lambda wildcards: [MARKS / "cells" / cell for cell in PANELS[wildcards.panel]["cells"]]
    output: touch(MARKS / "throughput" / "{panel}")
    params:
        log=lambda wildcards: PANELS[wildcards.panel]["log"],
        ask=lambda wildcards: PANELS[wildcards.panel]["ask"],
    # all cores here, a node of its own elsewhere, so nothing else of the grid runs beside it
    threads: PLAN["panel_threads"]
    resources:
        gpu=lambda wildcards: PANELS[wildcards.panel]["gpus"],
        mem_mb=lambda wildcards: PANELS[wildcards.panel]["mem_mb"],
        runtime=lambda wildcards: PANELS[wildcards.panel]["runtime_min"],
    shell:
        KVREPRO + "processes $PPID kvrepro throughput {PLAN[profile]} --panel {wildcards.panel:q} --json"
        " --gpus {resources.gpu} >> {params.log:q} 2>&1"

rule figures:
    input: FIGURES["marks"], FIGURES["code"]
    output: touch(MARKS / "figures")
    params: log=FIGURES["log"]
    shell:
        KVREPRO + "stand_in $PPID kvrepro summary {PLAN[profile]} >> {params.log:q} 2>&1"
