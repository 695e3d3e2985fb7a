#!/bin/sh
# What Snakemake asks of a job: is it running, was it a success, has it failed? Where SLURM does not know it any more,
# or does not answer, nothing is called failed: of a job that is gone, Snakemake looks for the mark.
state=$(squeue --noheader --states=all --jobs="$1" --format=%T 2>&1)
case "$state" in
    COMPLETED | "" | *"Invalid job id"*) echo success ;;
    BOOT_FAIL | CANCELLED | DEADLINE | FAILED | NODE_FAIL | OUT_OF_MEMORY | PREEMPTED | REVOKED | TIMEOUT) echo failed ;;
    *) echo running ;;
esac
