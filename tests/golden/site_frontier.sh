#!/bin/bash -l
#SBATCH --job-name=digits_everything
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --gres=gpu:8
#SBATCH --time=02:00:00
#SBATCH --account=abc123
#SBATCH --partition=batch
#SBATCH --output=log.txt
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH -C nvme
#SBATCH --network=disable_rdzv_get

run=HERE/runs/digits_everything job=$SLURM_JOB_ID requeues=${SLURM_RESTART_COUNT:-0}
note() { echo "== job $job, $(date '+%F %T'): $1"; }
note "attempt $((requeues + 1)) of 21, on $SLURM_JOB_NODELIST"
export KAKURENBO_ATTEMPT=$((requeues + 1))/21
rm -f -- "$run/batch/exit_code" "$run/batch/ended.json" "$run/stop" # left by the job that was requeued
echo "$requeues" > "$run/batch/requeues"
trap 'echo "$?" > "$run/batch/exit_code"' EXIT
module load PrgEnv-gnu/8.7.0 rocm/7.1.1 rccl-net-plugin craype-accel-amd-gfx90a || { note "failed: no such modules"; exit 1; }
export PATH=PYTHON:"$PATH"
export NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3
export MIOPEN_USER_DB_PATH=/tmp/my-miopen-cache
export MIOPEN_CUSTOM_CACHE_DIR=/tmp/my-miopen-cache
cd -- HERE || exit 1

cancelled=
# Slurm sends USR1 before the walltime is over, TERM at its end and on scancel; before a preemption, TERM to the ranks of srun alone.
# The file tells the ranks to write a checkpoint and leave with 75.
trap 'touch "$run/stop"' USR1
trap 'cancelled=1' TERM
# If a signal arrives as the ranks leave, bash loses their exit code: this subshell survives signals and writes it to a file.
(
    trap : TERM USR1
    PYTHON/python -m kakurenbo_hpc.cli launch "$run/batch/job.yaml" --machine "$run/batch/machine.yaml" \
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
    note "requeued" # now: a requeued job is ended at once
    scontrol requeue "$job" || note "not requeued after all; go on with kakurenbo submit --resume"
fi
exit "$code"
