#!/bin/bash -l
#PBS -N digits_kakurenbo
#PBS -l select=2:ncpus=40:mpiprocs=4:ompthreads=10:mem=360gb:ngpus=4
#PBS -l walltime=02:00:00
#PBS -r y
#PBS -j oe
#PBS -l place=scatter:excl

run=/home/me/runs/digits_kakurenbo job=$PBS_JOBID requeues=${REQUEUES:-0}
umask 0022 # of the shell that submitted; by itself PBS makes all files private
exec >> "$run/batch/log.txt" 2>&1
note() { echo "== job $job, $(date '+%F %T'): $1"; }
note "attempt $((requeues + 1)) of 21, on $(sort -u "${PBS_NODEFILE:-/dev/null}" | tr '\n' ' ')"
export KAKURENBO_ATTEMPT=$((requeues + 1))/21
# At this time, before the walltime is over, the ranks write a checkpoint and leave with 75.
KAKURENBO_DEADLINE=$(($(date +%s) + 7020))
export KAKURENBO_DEADLINE
rm -f -- "$run/batch/exit_code" "$run/batch/ended.json" # left by the job that was requeued
echo "$requeues" > "$run/batch/requeues"
trap 'echo "$?" > "$run/batch/exit_code"' EXIT
module load gcc cuda/12.6 openmpi || { note "failed: no such modules"; exit 1; }
cd -- /home/me || exit 1

cancelled=
trap 'cancelled=1' TERM # from qdel, or at the walltime; PBS sends it to the ranks as well
# If a signal arrives as the ranks leave, bash loses their exit code: this subshell survives signals and writes it to a file.
(
    trap : TERM USR1
    /home/me/venv/bin/python -m kakurenbo_hpc.cli launch "$run/batch/job.yaml" --machine "$run/batch/machine.yaml" \
        --nodes 2 --run-dir "$run" --resume
    left=$?; echo "$left" > "$run/batch/exit_code"; exit "$left"
) & ranks=$!
while wait "$ranks"; code=$?; kill -0 "$ranks" 2> /dev/null; do :; done # a signal interrupts wait, not the ranks
if [ -s "$run/batch/exit_code" ]; then read -r code < "$run/batch/exit_code"; fi

if [ "$code" -ne 75 ] || [ -n "$cancelled" ]; then
    note "${cancelled:+terminated, }exit code $code"
elif [ -e "$run/batch/stopped" ]; then
    note "stopped by kakurenbo stop; go on with kakurenbo submit --resume"
elif [ "$requeues" -ge 20 ]; then
    note "gave up after $requeues requeues (max_requeues); go on with kakurenbo submit --resume"
else
    cd -- "$run/batch" || exit 1
    # At some sites qsub prints more than the id.
    if qsub -v REQUEUES=$((requeues + 1)) -W depend=afterany:"$PBS_JOBID" script.sh |
        grep -E '^[0-9]+(\[\])?\.[^ ]+$' >> jobs.txt
    then note "requeued"; else note "not requeued; go on with kakurenbo submit --resume"; fi
fi
exit "$code"
