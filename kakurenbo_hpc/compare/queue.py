"""A comparison as jobs of a batch system: an array of its runs, and a last job that writes the table.

The last job compares as on any ranks: it finds the runs of the array, does what had failed or could not be
known before (contenders that select by scores, controls that depend on results), and writes the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from ..cluster.batch_job import BatchJob, BatchRun, as_jobs
from ..cluster.launch_checks import check_job_fits, check_node
from ..cluster.machine import Machine
from ..cluster.preflight import check_names
from ..cluster.request import Request
from ..cluster.script import Script
from ..cluster.submit import base_script, make_run, ranks_on, submit_jobs
from ..cluster.work import only_size
from ..config.job import Job
from ..config.yaml import dump_yaml
from ..errors import RunDirectoryError
from .entries import Entry, list_entries
from .spec import BASELINE, Change, Comparison, Quick
from .table import run_lines


def submit_comparison(
    comparison: Comparison, jobs_of: Mapping[str, dict], out: Path, request: Request, dry_run: bool = False
) -> int:
    """Submit the runs of a comparison, and the job that writes its table once they have ended.

    Args:
        comparison: the comparison.
        jobs_of: values of each job that it names.
        out: as ``kakurenbo compare --out``.
        request: what ``kakurenbo submit compare`` was called with.
        dry_run: print the scripts only.

    Raises:
        UserError: a run cannot run (before any is submitted), or the batch system refuses a job.
    """
    machine, n_nodes, out = request.read_machine(), only_size(request), out.absolute()
    # By its name a run is this job; only what it keeps on disk may have been another.
    request = replace(request, resume=True, allow_changes=True)
    entries, n_ranks = list_entries(comparison, jobs_of, comparison.name), ranks_on(n_nodes, machine)
    check_node(machine)
    _check_jobs(entries, machine, n_ranks, request.force or dry_run)
    folder, name = out / comparison.name, request.name or comparison.name
    script = base_script(name, folder / "array", n_nodes, request, machine)
    runs = [*_list_runs(comparison, entries, n_ranks, out, script, request)]
    last = base_script(
        f"{name}_table", folder, n_nodes, request, machine, work=("compare",), options=("--out", str(out))
    )
    last = replace(last, after=(*last.after, *(run.batch.run for run in runs)), after_done=False)
    table = make_run(entries[BASELINE].job, folder, last, request, is_run=False)
    table.files.update(_files(comparison, jobs_of, entries))
    jobs = as_jobs(script, runs, request.array.limit) if runs else []
    return submit_jobs([*jobs, BatchJob(last, (table,))], request, machine, dry_run)


def _check_jobs(entries: Mapping[str, Entry], machine: Machine, n_ranks: int, skip_names: bool) -> None:
    """Raise UserError if a job does not fit its ranks, or names a model or optimizer that does not exist."""
    for entry in entries.values():
        check_job_fits(entry.job, machine, n_ranks)
    names = {(entry.job.model.name, entry.job.training.optimizer): entry.job for entry in entries.values()}
    for job in () if skip_names else names.values():
        check_names(machine, job)


def _list_runs(
    comparison: Comparison,
    entries: Mapping[str, Entry],
    n_ranks: int,
    out: Path,
    script: Script,
    request: Request,
) -> Iterator[BatchRun]:
    """Yield the runs that are not done and need no scores, each once."""
    seen = set()
    for name, entry in entries.items():
        for seed in () if entry.scores else comparison.seeds:
            job = entry.named(seed, n_ranks)
            run = out / "runs" / job.name
            if run not in seen and not _is_done(job, run):
                own = replace(script, name=f"{script.name}: {name}, seed {seed}")
                yield make_run(job, run, own, request, seed)
            seen.add(run)


def _is_done(job: Job, run: Path) -> bool:
    try:
        run_lines(run, job.training.epochs)
    except RunDirectoryError:
        return False
    return True


def _files(
    comparison: Comparison, jobs_of: Mapping[str, dict], entries: Mapping[str, Entry]
) -> dict[str, str]:
    """Return the comparison with all that was given on the command line, and the jobs that it names."""
    files = {job: f"base_{number}.yaml" for number, job in enumerate(jobs_of)}
    contenders = {
        name: contender.model_copy(update={"job": contender.job and files[contender.job]})
        for name, contender in comparison.contenders.items()
    }
    changes = {"job": files[comparison.job], "contenders": contenders, "set": Change(), "quick": Quick()}
    values = comparison.model_copy(update=changes)
    code = entries[BASELINE].job.code  # by default the folder of the file, which is another one now
    code_of = {} if code is None else {"code": str(code)}
    return {
        "job.yaml": dump_yaml(values.model_dump(mode="json", exclude_defaults=True)),
        **{files[job]: dump_yaml(code_of | base) for job, base in jobs_of.items()},
    }
