#!/bin/sh
# What Snakemake asks of a job: is it running, was it a success, has it failed? It is asked in the grid's own folder, of
# one job after the other, so SLURM is asked once in a while for all of them. What it does not answer is never called
# failed: of a job that it has forgotten, Snakemake looks for the mark.
now=$(date +%s)
if [ ! -f jobs ] || [ $((now - $(head -n 1 jobs))) -ge 2 ]; then
    if squeue --noheader --states=all --user="$(id -u)" --format='%i %T' > jobs.new 2> /dev/null; then
        { echo "$now" && cat jobs.new; } > jobs.next && mv jobs.next jobs
    fi
fi
state=$(sed -n "s/^$1 //p" jobs 2> /dev/null)
# one that is not listed was submitted since, or has been forgotten
[ -n "$state" ] || state=$(squeue --noheader --states=all --jobs="$1" --format=%T 2>&1)
case "$state" in
    COMPLETED | "" | *"Invalid job id"*) echo success ;;
    BOOT_FAIL | CANCELLED | DEADLINE | FAILED | NODE_FAIL | OUT_OF_MEMORY | PREEMPTED | REVOKED | TIMEOUT) echo failed ;;
    *) echo running ;;
esac
