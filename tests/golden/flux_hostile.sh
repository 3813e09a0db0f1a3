#!/bin/bash
# flux: --job-name=it_s__a____touch_stolen___touch_stolen___touch_stolen_touch_stolen
# flux: --nodes=2 --exclusive
# flux: --time-limit=7200s
# flux: --bank=project-7
# flux: --queue=gpu
# flux: --output=flux.out
# flux: --signal=USR1@180s

run='/tmp/it'"'"'s "a" $(touch stolen) `touch stolen`; touch stolen
touch stolen' job=$FLUX_ENCLOSING_ID requeues=${REQUEUES:-0}
exec >> "$run/batch/log.txt" 2>&1
note() { echo "== job $job, $(date '+%F %T'): $1"; }
note "attempt $((requeues + 1)) of 1, on $(hostname)"
export KAKURENBO_ATTEMPT=$((requeues + 1))/1
rm -f -- "$run/batch/exit_code" "$run/batch/ended.json" "$run/stop" # left by the job that was requeued
echo "$requeues" > "$run/batch/requeues"
trap 'echo "$?" > "$run/batch/exit_code"' EXIT
export UCX_TLS=rc,sm
export NOTE='it'"'"'s $(date)'
cd -- /home/me || exit 1

cancelled=
trap 'touch "$run/stop"' USR1 # before the walltime is over, to the ranks as well
trap 'cancelled=1' TERM # from flux cancel, and at the walltime
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
elif [ "$requeues" -ge 0 ]; then
    note "gave up after $requeues requeues (max_requeues); go on with kakurenbo submit --resume"
else
    cd -- "$run/batch" || exit 1
    if flux --parent batch --env=REQUEUES=$((requeues + 1)) --dependency=afterany:"$job" script.sh >> jobs.txt
    then note "requeued"; else note "not requeued; go on with kakurenbo submit --resume"; fi
fi
exit "$code"
