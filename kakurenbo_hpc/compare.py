"""Several runs by one protocol: a job, contenders that differ from it, seeds, controls; one table at the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from .data import DATA
from .errors import DONE, FAILED, REQUEUE, JobError, UserError
from .job import Count, Job, Options, check_job, checked, read_yaml, set_value
from .places import find_job
from .protocol import (
    ERROR_FACTORS, TOLERANCES, Curve, accuracy_at, best, cost_to_error, differs, final, mean_curve, pareto_shares, speed_up,
)  # fmt: skip
from .record.files import write_whole
from .record.metrics import finite
from .record.provenance import provenance
from .run import run
from .score import RECIPES, score
from .selection import METHODS
from .selection.scores import about_scores
from .world.comm import Comm

PICTURES = Literal[
    "convergence", "hidden_and_accuracy", "speedup_over_tolerance", "error_over_steps", "error_over_seconds", "time_parts", "pareto",
    "loss_histogram", "class_weights", "accuracy_over_steps",
]  # fmt: skip
BASELINE = "everything"


class Scores(Options):
    """Scores that are made before a contender's run; it then selects by them. Their cost is added to its own."""

    method: Literal["el2n", "grand", "forgetting", "random"]
    epochs: Annotated[int, Field(ge=0)] | None = None
    repeats: Count | None = None


class Contender(Options):
    """What differs from the comparison's job: keys of its sections; a selection that names a method replaces the job's."""

    data: dict[str, Any] = {}
    model: dict[str, Any] = {}
    training: dict[str, Any] = {}
    selection: dict[str, Any] = {}
    record: dict[str, Any] = {}
    scores: Scores | None = None


class Quick(Options):
    """A smaller size of the same comparison. contenders: their names, all if not given."""

    set: Contender = Contender()
    seeds: Annotated[list[int], Field(min_length=1)] = [1]
    contenders: list[str] | None = None


class Comparison(Options):
    """A comparison file. job: beside this file, or by name. set: what differs from it for everybody.

    controls: beside those that are always in: everything, random at each contender's share, fewer epochs at its compute.
    pictures: wanted of the report.
    """

    name: str
    shows: str = ""
    job: str
    set: Contender = Contender()
    contenders: Annotated[dict[str, Contender], Field(min_length=1)]
    seeds: Annotated[list[int], Field(min_length=1)] = [1, 2, 3, 4]
    controls: list[Literal["rs2"]] = []
    pictures: list[PICTURES] = []
    quick: Quick = Quick()


@dataclass(frozen=True)
class Entry:
    """One line of the table: a job for any seed, and what its scores are made by."""

    job: Job
    scores: Scores | None = None

    def named(self, seed: int, scores: Path | None = None) -> Job:
        """Return the job of this seed, named by what it is: the same job has the same name in every comparison."""
        update = {"seed": seed}
        if scores is not None:
            update["selection"] = self.job.selection.model_copy(update={"scores": [str(scores)]})
        job = self.job.model_copy(update=update)
        plain = job.as_dict() | {"name": "", "record": {}}
        return job.model_copy(update={"name": f"{job.selection.method}-{_digest(plain)}"})


def read_comparison(path: Path, quick: bool = False, seeds: int | None = None) -> tuple[Comparison, dict[str, Entry]]:
    """Return a comparison file and the contenders it names, every job checked. Raises JobError."""
    values = read_yaml(path)
    comparison = checked(Comparison, values, str(path))
    for seeds_given in (comparison.seeds, comparison.quick.seeds):
        if len(set(seeds_given)) < len(seeds_given):
            raise JobError(f"{path}: seeds are {seeds_given}, but each may stand once; remove the second")
    if quick:
        chosen = comparison.quick.contenders or list(comparison.contenders)
        for name in chosen:
            if name not in comparison.contenders:
                raise JobError(f"{path}: quick.contenders names {name}, which is no contender; name some of {', '.join(comparison.contenders)}")
        comparison = comparison.model_copy(
            update={"contenders": {name: comparison.contenders[name] for name in chosen}, "seeds": comparison.quick.seeds}
        )
    if seeds is not None:
        comparison = comparison.model_copy(update={"seeds": list(range(1, seeds + 1))})
    beside = path.parent / comparison.job
    base = read_yaml(beside if beside.is_file() else find_job(comparison.job))
    for change in [comparison.set, *([comparison.quick.set] if quick else [])]:
        base = _changed(base, change)
    entries = {BASELINE: Entry(_checked(_changed(base, Contender(selection={"method": "everything"})), f"{path}: {BASELINE}"))}
    for name, contender in comparison.contenders.items():
        if name in entries:
            raise JobError(f"{path}: a contender is called {name}, as the baseline is; give it another name")
        entries[name] = _entry(base, contender, f"{path}: contender {name}")
    if "rs2" in comparison.controls:
        entries["rs2"] = _entry(base, Contender(selection={"method": "rs2"}), f"{path}: control rs2")
    return comparison, entries


def of_methods(job: str, methods: list[str], seeds: int, overrides: list[str]) -> tuple[Comparison, dict[str, Entry]]:
    """Return the comparison of some methods, with their own defaults, on one job. Raises JobError."""
    path = find_job(job)
    base = read_yaml(path)
    for override in overrides:
        set_value(base, override)
    entries = {BASELINE: Entry(_checked(_changed(base, Contender(selection={"method": "everything"})), str(path)))}
    for name in methods:
        kept = base["selection"] if isinstance(base.get("selection"), dict) and base["selection"].get("method") == name else {"method": name}
        if name != BASELINE:
            entries[name] = _entry(base, Contender(selection=kept), str(path))
    contenders = {name: Contender() for name in entries if name != BASELINE}
    if not contenders:
        raise JobError(f"compare {job}: --methods names nothing but {BASELINE}, which is always in; name another")
    return Comparison(name=f"{path.stem}_{'_'.join(contenders)}", job=job, contenders=contenders, seeds=list(range(1, seeds + 1))), entries


def compare(comparison: Comparison, entries: Mapping[str, Entry], out: Path, comm: Comm) -> int:
    """Run what has not been run yet, on these ranks, and write and print the table; return the exit code.

    out: holds ``runs/``, shared by all comparisons there, and ``NAME/comparison.json`` and ``table.md``. A run that fails is
    named, and the others go on.
    """
    results, entries = _Results(comparison, out, comm), dict(entries)
    for name, entry in entries.items():
        if code := results.add(name, entry):
            return code
    for name, entry in _controls(comparison, entries, results):
        if code := results.add(name, entry):
            return code
    if comm.rank == 0:
        results.write()
    return FAILED if results.failed else DONE


class _Results:
    """Runs entries, seed by seed, and keeps their lines."""

    def __init__(self, comparison: Comparison, out: Path, comm: Comm):
        self.comparison, self.failed = comparison, {}
        self._out, self._comm = out, comm
        self.curves: dict[str, list[Curve]] = {}
        self.lines: dict[str, list[list[dict]]] = {}

    def add(self, name: str, entry: Entry) -> int:
        """Run an entry with all seeds. Returns 75 if the ranks were asked to leave, else 0."""
        for seed in self.comparison.seeds:
            try:
                with _written_to(self._out / "log.txt", self._comm):
                    scores, cost = self._scored(entry, seed)
                    job = entry.named(seed, scores)
                    directory = self._out / "runs" / job.name
                    begun = self._comm.on_first(lambda: (directory / "job.yaml").exists())
                    if run(job, directory, self._comm, resume=begun) == REQUEUE:
                        return REQUEUE
            except UserError as problem:
                if not problem.agreed:
                    raise
                self.failed[name] = str(problem)
                self._say(f"{name}, seed {seed}: {problem}")
                return DONE
            lines = [json.loads(text) for text in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
            self.lines.setdefault(name, []).append(lines)
            self.curves.setdefault(name, []).append(curve(lines).after(*cost))
            reached = self.curves[name][-1]
            self._say(f"{name}, seed {seed}: {reached.accuracy[-1]:.4f} in {reached.seconds[-1]:.1f} s")
        return DONE

    def _scored(self, entry: Entry, seed: int) -> tuple[Path | None, tuple[int, int, int, float]]:
        """Make the scores that an entry selects by, if it does; return the file and steps, passes and seconds spent on it."""
        if entry.scores is None:
            return None, (0, 0, 0, 0.0)
        made_by = entry.job.model_copy(update={"seed": seed, "selection": METHODS["everything"](method="everything")})
        wanted = entry.scores.model_dump()
        path = self._out / "scores" / f"{entry.scores.method}-{_digest([made_by.as_dict() | {'name': '', 'record': {}}, wanted])}.h5"
        if not self._comm.on_first(path.exists):
            score(entry.scores.method, made_by, path, self._comm, entry.scores.epochs, entry.scores.repeats)
        about = about_scores(str(path))
        steps = -(-about.n_backward // entry.job.training.batch(self._comm.size))
        return path, (steps, about.n_forward, about.n_backward, about.seconds)

    def _say(self, text: str) -> None:
        if self._comm.rank == 0:
            print(text, flush=True)

    def write(self) -> None:
        """Write and print the table. On rank 0 alone."""
        folder = self._out / self.comparison.name
        folder.mkdir(parents=True, exist_ok=True)
        rows = table(self.curves, self.lines)
        whole = {
            "name": self.comparison.name,
            "shows": self.comparison.shows,
            "seeds": self.comparison.seeds,
            "pictures": self.comparison.pictures,
            "failed": self.failed,
            "contenders": rows,
            "curves": {name: [{k: v.tolist() for k, v in asdict(c).items()} for c in runs] for name, runs in self.curves.items()},
            "ranks": self._comm.size,
            **provenance(),
        }
        write_whole(folder / "comparison.json", json.dumps(finite(whole), indent=1) + "\n")
        text = markdown(rows)
        write_whole(folder / "table.md", text)
        print(f"\n{self.comparison.name}: {self.comparison.shows or self.comparison.job}; seeds {self.comparison.seeds}\n\n{text}", flush=True)
        for name, problem in self.failed.items():
            print(f"failed: {name}: {problem}", flush=True)


def _controls(comparison: Comparison, entries: Mapping[str, Entry], results: _Results) -> Iterator[tuple[str, Entry]]:
    """Yield random at each share that contenders hid, to 0.05, and fewer epochs at their compute, forward 1 and backward 2."""
    if BASELINE not in results.curves:
        return
    base, n_epochs = entries[BASELINE].job, entries[BASELINE].job.training.epochs
    whole = mean_curve(results.curves[BASELINE])
    shares, lengths = set(), set()
    for name in comparison.contenders:
        if name not in results.curves:
            continue
        spent = mean_curve([curve(lines) for lines in results.lines[name]])  # without the cost of scores
        shares.add(round(20 * (1 - spent.backward[-1] / whole.backward[-1])) / 20)
        compute = (spent.forward[-1] + 2 * spent.backward[-1]) / (whole.forward[-1] + 2 * whole.backward[-1])
        lengths.add(max(1, round(n_epochs * compute)))
    for share in sorted(share for share in shares if 0 < share < 1):
        yield f"random {share:.2f}", _with(base, selection={"method": "random", "fraction": share})
    for length in sorted(length for length in lengths if length < n_epochs):
        yield f"{length} epochs", _with(base, training=_shortened(base, length))


def _shortened(job: Job, epochs: int) -> dict[str, Any]:
    """Return the training section of a run of fewer epochs, its schedule shortened with it."""
    training = job.training.model_dump()
    factor = epochs / training["epochs"]
    for name in ("warmup_epochs", "decay_epochs"):
        if training[name]:
            training[name] = training[name] * factor
    return training | {"epochs": epochs, "milestones": [epoch * factor for epoch in training["milestones"]]}


def curve(lines: list[dict]) -> Curve:
    """Return what a run's metrics say, cumulated over epochs. Accuracy is the validation accuracy, or the mean IoU of images."""
    measure = "val_accuracy" if "val_accuracy" in lines[0] else "val_iou"

    def summed(values: list) -> np.ndarray:
        return np.cumsum(np.array(values, np.float64))

    return Curve(
        accuracy=np.array([line[measure] if line[measure] is not None else 0.0 for line in lines]),
        steps=summed([line["steps"] for line in lines]),
        forward=summed([line["n_forward"] for line in lines]),
        backward=summed([line["n_backward"] for line in lines]),
        seconds=summed([line["seconds"]["total"] for line in lines]),
    )


def table(curves: Mapping[str, list[Curve]], lines: Mapping[str, list[list[dict]]]) -> dict[str, dict[str, Any]]:
    """Return every figure of every contender, by name."""
    means = {name: mean_curve(runs) for name, runs in curves.items()}
    shares = pareto_shares(curves)
    baseline = means.get(BASELINE)
    budget = min(mean.forward[-1] for mean in means.values())
    rows = {}
    for name, runs in curves.items():
        mean = means[name]
        row: dict[str, Any] = {
            "final": asdict(final(runs)),
            "best": asdict(best(runs)),
            "n_forward": mean.forward[-1],
            "n_backward": mean.backward[-1],
            "steps": mean.steps[-1],
            "seconds": mean.seconds[-1],
            "seconds_by_part": _seconds_by_part(lines[name]),
            "hidden_fraction": float(np.mean([[line["hidden_fraction"] for line in run] for run in lines[name]])),
            "accuracy_at_equal_forward": accuracy_at(mean, budget),
            "pareto_share": shares[name],
        }
        if baseline is not None:
            gap, error, beyond = differs(runs, curves[BASELINE])
            base_error = 1 - baseline.accuracy[-1]
            row |= {"against_everything": gap, "standard_error": error, "beyond_noise": beyond}
            row["speed_up"] = {str(tolerance): speed_up(mean, baseline, tolerance) for tolerance in TOLERANCES}
            for cost in ("steps", "seconds"):
                row[f"{cost}_to_error"] = {str(factor): cost_to_error(mean, factor * base_error, cost) for factor in ERROR_FACTORS}
        rows[name] = row
    return rows


def _seconds_by_part(runs: list[list[dict]]) -> dict[str, float]:
    return {part: float(np.mean([sum(line["seconds"][part] for line in run) for run in runs])) for part in runs[0][0]["seconds"]}


def markdown(rows: Mapping[str, dict[str, Any]]) -> str:
    """Return the table that is printed; a ``*`` marks a difference from everything beyond noise."""

    def of(row: dict, name: str, key: Any, form: str) -> str:
        value = row.get(name, {}).get(str(key))
        return "-" if value is None else format(value, form)

    heads = ["", "final (p16 to p84)", "best", "- everything", "hidden", "forward", "backward", "s", "plan", "train", "refresh"]
    heads += [f"t_b/t_n {tolerance:g}" for tolerance in TOLERANCES] + [f"steps to {factor:g} e" for factor in ERROR_FACTORS]
    heads += [f"s to {factor:g} e" for factor in ERROR_FACTORS] + ["at equal forward", "front"]
    cells = [heads]
    for name, row in rows.items():
        last = row["final"]
        gap = "-" if name == BASELINE or "beyond_noise" not in row else f"{row['against_everything']:+.4f}" + "*" * row["beyond_noise"]
        equal = row["accuracy_at_equal_forward"]
        cells.append([
            name, f"{last['mean']:.4f} ({last['p16']:.4f} to {last['p84']:.4f})", f"{row['best']['mean']:.4f}", gap,
            f"{row['hidden_fraction']:.1%}", f"{row['n_forward']:.0f}", f"{row['n_backward']:.0f}", f"{row['seconds']:.1f}",
            *(f"{row['seconds_by_part'][part]:.2f}" for part in ("plan", "train", "refresh")),
            *(of(row, "speed_up", tolerance, ".2f") for tolerance in TOLERANCES),
            *(of(row, "steps_to_error", factor, ".0f") for factor in ERROR_FACTORS),
            *(of(row, "seconds_to_error", factor, ".1f") for factor in ERROR_FACTORS),
            "-" if equal is None else f"{equal:.4f}", f"{row['pareto_share']:.0%}",
        ])  # fmt: skip
    widths = [max(len(line[i]) for line in cells) for i in range(len(heads))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def _entry(base: dict, contender: Contender, where: str) -> Entry:
    if contender.scores is not None:
        contender = contender.model_copy(update={"selection": {"method": "static", "scores": ["made before"], **contender.selection}})
        if contender.scores.method not in RECIPES:
            raise JobError(f"{where}: scores.method is {contender.scores.method}, which nobody knows")
    return Entry(_checked(_changed(base, contender), where), contender.scores)


def _with(job: Job, **sections: dict[str, Any]) -> Entry:
    return Entry(_checked(_changed(job.as_dict(), Contender(**sections)), "control"))


def _checked(values: dict, where: str) -> Job:
    return check_job(values, where, DATA, METHODS)


def _changed(values: dict, change: Contender) -> dict:
    """Return the job's values with the sections of a change laid over them."""
    changed = {name: dict(section) if isinstance(section, dict) else section for name, section in values.items()}
    for name in ("data", "model", "training", "selection", "record"):
        over = getattr(change, name)
        if name == "selection" and "method" in over or name == "data" and "name" in over:
            changed[name] = dict(over)
        elif over:
            changed[name] = {**changed.get(name, {}), **over}
    return changed


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=5).hexdigest()


@contextlib.contextmanager
def _written_to(path: Path, comm: Comm) -> Iterator[None]:
    """Let what runs print on rank 0 go to a file."""
    if comm.rank:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        yield
