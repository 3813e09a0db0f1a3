"""The lines of a comparison's table, each of them a checked job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..config.job import Job, check_job
from ..data import DATASETS
from ..errors import JobError, nearest
from ..selection import METHODS
from ..selection.subsets.recipe import read_recipe
from .spec import BASELINE, Comparison, Contender, Scores, change_values


@dataclass(frozen=True)
class Entry:
    """One line of the table: a job for any seed, its scores, and the line that it is measured against."""

    job: Job
    scores: Scores | None = None
    against: str = BASELINE

    def named(self, seed: int, ranks: int, scores: Path | None = None) -> Job:
        """Return the job of a seed, named by its content and the number of ranks."""
        update = {"seed": seed}
        if scores is not None:
            update["selection"] = self.job.selection.model_copy(update={"scores": [str(scores)]})
        job = self.job.model_copy(update=update)
        return job.model_copy(update={"name": f"{job.selection.method}-{digest(job, ranks)}"})


def digest(job: Job, *more: Any) -> str:
    """Return a short name of what a job does; what it is called and what it keeps on disk do not count."""
    text = json.dumps([job.as_dict() | {"name": "", "record": {}}, *more], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=5).hexdigest()


def list_entries(comparison: Comparison, jobs: Mapping[str, dict], where: str) -> dict[str, Entry]:
    """Return the baseline, the contenders, and the controls that do not depend on results.

    Args:
        comparison: the comparison.
        jobs: values of each job that it names.
        where: for messages.

    Raises:
        JobError: one line, for the first thing that is wrong.
    """
    base = jobs[comparison.job]
    entries = {BASELINE: _entry(base, Contender(selection={"method": "everything"}), f"{where}: {BASELINE}")}
    for name, contender in comparison.contenders.items():
        if name in entries:
            raise JobError(f"{where}: a contender is called {name}, as the baseline is; give it another name")
        values = base if contender.job is None else jobs[contender.job]
        entries[name] = _entry(values, contender, f"{where}: contender {name}")
    for name, contender in comparison.contenders.items():
        if contender.against not in entries or contender.against == name:
            found = (
                f"{where}: contender {name}: against names {contender.against}, which is no other line of "
                "this table"
            )
            raise JobError(f"{found}; {nearest(contender.against, entries)}")
    if "unscaled" in comparison.controls:
        entries |= {
            f"{name}, unscaled": unscaled
            for name, entry in entries.items()
            if (unscaled := _unscaled(entry, entries))
        }
    return entries


def _unscaled(entry: Entry, entries: Mapping[str, Entry]) -> Entry | None:
    """Return the entry without its scaling; None if it scales nothing, or is in the table already."""
    selection = entry.job.selection
    off = {name: False for name in selection.scaling_options if getattr(selection, name)}
    unscaled = replace(
        entry, job=entry.job.model_copy(update={"selection": selection.model_copy(update=off)})
    )
    return unscaled if off and unscaled not in entries.values() else None


def _entry(base: dict, contender: Contender, where: str) -> Entry:
    if (scores := contender.scores) is not None:
        try:
            read_recipe(scores.method, scores.epochs, scores.repeats, scores.options)
        except JobError as problem:
            raise JobError(f"{where}: {problem}") from None
        # What the scores' file is called is known once it is made.
        contender = contender.model_copy(
            update={"selection": {"method": "static", "scores": ["made before"], **contender.selection}}
        )
    return Entry(checked_job(change_values(base, contender), where), contender.scores, contender.against)


def checked_job(values: dict, where: str) -> Job:
    """Return the job of these values, checked with every data set and method; ``where`` is for messages."""
    return check_job(values, where, DATASETS, METHODS)
