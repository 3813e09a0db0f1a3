"""Comparison files: what may stand in them, and the values of the jobs that they name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ..config.job_values import changed, read_values
from ..config.options import Count, FileName, Options, Plain, Seed, checked, option
from ..config.package_files import find_job
from ..config.yaml import read_yaml, set_value
from ..errors import JobError, nearest
from ..selection.subsets import SCORES

BASELINE = "everything"
Picture = Literal[
    "convergence",
    "hidden_and_accuracy",
    "speedup_over_tolerance",
    "error_over_steps",
    "error_over_seconds",
    "time_parts",
    "pareto",
    "loss_histogram",
    "class_weights",
    "components",
    "accuracy_over_steps",
    "ceiling_rate_speedup",
    "confidence_percentiles",
    "gradient_agreement",
    "gradient_bias",
    "hidden_per_class",
    "loss_cdf",
    "loss_top_bottom",
    "sample_history",
    "samples",
    "selection_probability",
    "weight_spread",
]
Seeds = Annotated[list[Seed], Field(min_length=1)]


class Scores(Options):
    """Scores that are computed before a contender's run; their cost is added to its own."""

    method: str = option(..., "Scoring method of kakurenbo score (kakurenbo scores lists them).")
    options: Plain = option({}, "Options of the scoring method.")
    epochs: Annotated[int, Field(ge=0)] | None = option(
        None, "Epochs of training before samples are scored; the paper's if not given.", "epochs"
    )
    repeats: Count | None = option(None, "Initialisations to average over; the paper's if not given.")

    @field_validator("method")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in SCORES:
            raise ValueError(f"is no scoring method; {nearest(name, SCORES.own)}")
        return name


class Change(Options):
    """Changes to a job, by section."""

    data: dict[str, Any] = option({}, "Keys of data; with a name, the whole section.")
    model: dict[str, Any] = option({}, "Keys of model.")
    training: dict[str, Any] = option({}, "Keys of training.")
    selection: dict[str, Any] = option({}, "Keys of selection; with a method, the whole section.")
    record: dict[str, Any] = option({}, "Keys of record.")


class Contender(Change):
    """A contender: changes to the comparison's job, or to another."""

    job: str | None = option(
        None, "Another job than the comparison's, found alike; then against names the line of its baseline."
    )
    scores: Scores | None = option(None, "Scores that the contender's run selects by.")
    against: str = option(BASELINE, "The line of the table that this one is measured against.")


class Quick(Options):
    """A smaller size of the same comparison, for --quick."""

    set: Change = option(Change(), "Changes to the job of all contenders.")
    seeds: Seeds = option([1], "Seeds.")
    contenders: list[str] | None = option(None, "Names of the contenders; all if not given.")


class Comparison(Options):
    """A comparison file: several contenders on one job."""

    name: FileName = option(..., "Name of the comparison, and of its folder.")
    shows: str = option("", "What the comparison shows, one line.")
    job: str = option(..., "The job: a path beside this file, or a job that comes with the package.")
    set: Change = option(Change(), "Changes to the job of all contenders.")
    contenders: Annotated[dict[str, Contender], Field(min_length=1)] = option(
        ..., "Contenders by name, each with its changes to the job."
    )
    seeds: Seeds = option([1, 2, 3, 4], "Seeds of the runs of every contender.")
    controls: list[Literal["rs2", "unscaled", "resolution"]] = option(
        [],
        "Controls beside everything, random at each contender's share in each epoch and in all, and fewer "
        "epochs at its compute: "
        "rs2 at each contender's fraction; resolution, everything on training images scaled down to its "
        "compute, where the network takes any size; unscaled, each contender without its scaling of learning "
        "rate or losses.",
    )
    pictures: list[Picture] = option([], "Figures of kakurenbo report, drawn beside the table.")
    quick: Quick = option(Quick(), "A smaller size, for --quick.")


def read_comparison(
    path: Path, quick: bool = False, seeds: int | None = None, overrides: Sequence[str] = ()
) -> tuple[Comparison, dict[str, dict]]:
    """Return a comparison file and the values of each job that it names.

    Args:
        path: of the file.
        quick: take its smaller size.
        seeds: 1 to this instead of the file's.
        overrides: ``section.key=value``, of the job of all contenders.

    Raises:
        JobError: one line, for the first thing that is wrong.
    """
    comparison = checked(Comparison, read_yaml(path), str(path))
    for given in (comparison.seeds, comparison.quick.seeds):
        if len(set(given)) < len(given):
            raise JobError(f"{path}: seeds are {given}, but each may stand once; remove the second")
    sizes = [comparison.set, comparison.quick.set] if quick else [comparison.set]
    if quick:
        comparison = _smaller(comparison, path)
    if seeds is not None:
        comparison = comparison.model_copy(update={"seeds": list(range(1, seeds + 1))})

    def values_of(job: str) -> dict:
        beside = path.parent / job
        values = read_values(beside if beside.is_file() else find_job(job))
        for change in sizes:
            values = change_values(values, change)
        for override in overrides:
            set_value(values, override)
        return values

    others = (contender.job for contender in comparison.contenders.values() if contender.job is not None)
    return comparison, {job: values_of(job) for job in dict.fromkeys([comparison.job, *others])}


def compare_methods(
    job: str, methods: Sequence[str], seeds: int, overrides: Sequence[str] = ()
) -> tuple[Comparison, dict[str, dict]]:
    """Return the comparison of some methods on one job, and the values of the job by its name.

    The job's own method has the options that are set there, others their defaults.

    Raises:
        JobError: one line, for the first thing that is wrong.
    """
    path = find_job(job)
    base = read_values(path)
    for override in overrides:
        set_value(base, override)
    selection = base.get("selection")
    own = selection.get("method") if isinstance(selection, dict) else None
    names = [name for name in dict.fromkeys(methods) if name != BASELINE]
    if not names:
        raise JobError(
            f"compare {job}: --methods names nothing but {BASELINE}, which is always in; name another"
        )
    contenders = {
        name: Contender(selection=dict(selection or {}) if name == own else {"method": name})
        for name in names
    }
    values = {
        "name": f"{path.stem}_{'_'.join(names)}"[:100],
        "job": job,
        "contenders": contenders,
        "seeds": list(range(1, seeds + 1)),
    }
    return checked(Comparison, values, f"compare {job}"), {job: base}


def _smaller(comparison: Comparison, path: Path) -> Comparison:
    chosen = comparison.quick.contenders or list(comparison.contenders)
    for name in chosen:
        if name not in comparison.contenders:
            raise JobError(
                f"{path}: quick.contenders names {name}, which is no contender; "
                f"{nearest(name, comparison.contenders)}"
            )
    contenders = {name: comparison.contenders[name] for name in chosen}
    return comparison.model_copy(update={"contenders": contenders, "seeds": comparison.quick.seeds})


def change_values(values: dict, change: Change) -> dict:
    """Return the job's values with the sections of a change laid over them."""
    return changed(values, {name: over for name in Change.model_fields if (over := getattr(change, name))})
