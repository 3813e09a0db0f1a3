"""Comparison files: contenders and controls, each of them a checked job."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from ..config.job import Job, check_job
from ..config.job_values import changed, read_values
from ..config.options import Count, FileName, Options, Plain, Seed, checked, option
from ..config.package_files import find_job
from ..config.yaml import read_yaml, set_value
from ..data import DATASETS
from ..errors import JobError, nearest
from ..selection import METHODS
from ..selection.subsets import SCORES
from .metrics import Curve, mean_curve

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
            values = _changed(values, change)
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


def controls(
    comparison: Comparison, entries: Mapping[str, Entry], curves: Mapping[str, Sequence[Curve]]
) -> Iterator[tuple[str, Entry]]:
    """Yield the controls that depend on what contenders spent.

    Random at each contender's own share in each epoch, as SMRD in Progressive Data Dropout; random, and rs2
    where the comparison wants it, at each fraction that contenders left out (to 0.05); everything for fewer
    epochs at their compute; and, where wanted, everything on smaller training images at their compute. A
    control that is a line of the table already is left out.
    Compute counts a sample's forward pass as 1 and its backward pass as 2, both in proportion to its pixels;
    scores do not count.
    """
    there = {digest(entry.job) for entry in entries.values()}
    for name, control in _controls(comparison, entries, curves):
        if digest(control.job) not in there:
            there.add(digest(control.job))
            yield name, control


def _controls(
    comparison: Comparison, entries: Mapping[str, Entry], curves: Mapping[str, Sequence[Curve]]
) -> Iterator[tuple[str, Entry]]:
    shares, lengths, sides, by_epoch = set(), set(), set(), {}
    for name in comparison.contenders:
        against = entries[name].against
        if name not in curves or against not in curves or entries[name].job.selection.method == BASELINE:
            continue
        spent, whole = mean_curve(curves[name]), mean_curve(curves[against])
        shares.add((against, round(20 * (1 - spent.backward[-1] / whole.backward[-1])) / 20))
        by_epoch[name] = against, _left_out_by_epoch(spent, whole)
        compute = (spent.forward[-1] + 2 * spent.backward[-1]) / (whole.forward[-1] + 2 * whole.backward[-1])
        if epochs := entries[against].job.training.epochs:  # none are known where iterations are given
            lengths.add((against, max(1, round(epochs * compute))))
        sides.add((against, max(0.05, round(20 * compute**0.5) / 20)))
    for name, (against, fractions) in by_epoch.items():
        if len(set(fractions)) > 1:  # else the share that stays the same
            selection = {"method": "random", "fractions": fractions}
            yield f"random as {name}", _control(entries, against, selection=selection)
    for against, share in sorted(shares):
        if 0 < share < 1:
            for method in ("random", "rs2") if "rs2" in comparison.controls else ("random",):
                selection = {"method": method, "fraction": share}
                yield _of(against, f"{method} {share:.2f}"), _control(entries, against, selection=selection)
    for against, length in sorted(lengths):
        if length < entries[against].job.training.epochs:
            yield (
                _of(against, f"{length} epochs"),
                _control(
                    entries, against, training=entries[against].job.training.of_epochs(length).model_dump()
                ),
            )
    for against, side in sorted(sides) if "resolution" in comparison.controls else ():
        if side < 1:
            data = _scaled_down(entries[against].job, side)
            yield _of(against, f"resolution {side:.2f}"), _control(entries, against, data=data)


def _scaled_down(job: Job, side: float) -> dict[str, Any]:
    """Return the keys of data under which training images have a side of this fraction of their own."""
    step = {"downscale": {"side": side}}
    changed: dict[str, Any] = {"augmentation": [*job.data.augmentation, step]}
    if copies := job.data.augmentations_of_repeats():
        changed["repeats"] = [[*steps, step] for steps in copies]
    return changed


def _left_out_by_epoch(spent: Curve, whole: Curve) -> list[float]:
    """Return the fraction that a contender left out in each epoch that both have, to 0.001."""
    n = min(len(spent.backward), len(whole.backward))
    trained = np.diff(spent.backward[:n], prepend=0) / np.diff(whole.backward[:n], prepend=0)
    return np.clip(np.round(1 - trained, 3), 0, 0.999).tolist()


def _of(against: str, control: str) -> str:
    return control if against == BASELINE else f"{against}: {control}"


def _control(entries: Mapping[str, Entry], against: str, **sections: dict[str, Any]) -> Entry:
    job = _checked(_changed(entries[against].job.as_dict(), Change(**sections)), f"control of {against}")
    return Entry(job, against=against)


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
    if contender.scores is not None:
        # What the scores' file is called is known once it is made.
        contender = contender.model_copy(
            update={"selection": {"method": "static", "scores": ["made before"], **contender.selection}}
        )
    return Entry(_checked(_changed(base, contender), where), contender.scores, contender.against)


def _checked(values: dict, where: str) -> Job:
    return check_job(values, where, DATASETS, METHODS)


def _changed(values: dict, change: Change) -> dict:
    """Return the job's values with the sections of a change laid over them."""
    return changed(values, {name: over for name in Change.model_fields if (over := getattr(change, name))})
