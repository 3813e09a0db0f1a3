"""Measurement of scaling: runs of a sweep to a table over numbers of ranks, and its command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..rundir.atomic_io import write_whole
from .records import Run, printable, read_records
from .summary import differing_keys
from .text import problems

STAGES = ("plan", "train", "refresh", "evaluate", "checkpoint", "data_wait", "gradient_exchange")
"""Stages whose share of the time is told; the last two are parts of training and refresh."""
_BATCH = ("training.global_batch", "training.batch_per_rank")  # of which other notes tell


@dataclass(frozen=True)
class Scale:
    """A sweep's runs on one number of ranks: the mean over their seeds.

    Attributes:
        ranks: their number.
        nodes: their number.
        threads: of each rank.
        oversubscribed: whether the ranks' threads are more than the physical cores.
        global_batch: samples of a step.
        lr: largest learning rate of an epoch.
        samples_per_second: passed forward in a second of planning, training and refresh.
        speed_up: that rate against the smallest number of ranks.
        efficiency: speed-up by the ranks it took; None where ranks are oversubscribed.
        shares: of an epoch's time, by stage, on rank 0.
        imbalance: time of the slowest rank before it waits for others, against the mean rank's; None if not
            recorded.
        hours: of the whole job, to its last epoch.
        node_hours: the same times nodes.
        accuracy: after the last epoch; None without validation.
        epochs: measured, of all runs together.
    """

    ranks: int
    nodes: int
    threads: int | None
    oversubscribed: bool
    global_batch: int | None
    lr: float | None
    samples_per_second: float
    speed_up: float
    efficiency: float | None
    shares: dict[str, float]
    imbalance: float | None
    hours: float
    node_hours: float
    accuracy: float | None
    epochs: int


@dataclass(frozen=True)
class Scaling:
    """A sweep.

    Attributes:
        kind: strong, weak, or mixed if neither the global batch nor that of a rank stays.
        scales: by number of ranks, increasing.
        notes: what to know when reading the figures, a sentence each.
    """

    kind: str
    scales: list[Scale]
    notes: list[str]


def measure_scaling(runs: Sequence[Run]) -> Scaling | None:
    """Return the scaling of runs of one job; None if they are of fewer than two numbers of ranks.

    An epoch counts from the second on, where there are several: the first one warms up.
    """
    by_ranks: dict[int, list[Run]] = {}
    for run in runs:
        ranks = run.provenance.get("ranks")
        if isinstance(ranks, int) and ranks > 0 and min(np.nansum(_busy(run)), np.nansum(_forward(run))) > 0:
            by_ranks.setdefault(ranks, []).append(run)
    if len(by_ranks) < 2:
        return None
    scales: list[Scale] = []
    for ranks in sorted(by_ranks):
        scales.append(_scale(ranks, by_ranks[ranks], scales[0] if scales else None))
    kind = _kind(scales)
    measured = [run for ranks in sorted(by_ranks) for run in by_ranks[ranks]]
    return Scaling(kind, scales, [*_notes(kind, scales), *_differences(measured)])


def show_scaling(sweep: Path, csv: Path | None, json_file: Path | None) -> None:
    """Print the scaling of a sweep's folder, and write it where asked for.

    Raises:
        UserError: the folder holds no sweep, or a file cannot be written.
    """
    records = read_records([sweep], histograms=False, command="scaling")
    runs = records.runs
    if len(methods := {run.method for run in runs}) > 1:
        raise UserError(
            f"scaling: {printable(str(sweep))} holds runs of several methods ({', '.join(sorted(methods))}); "
            "name the folder of one sweep"
        )
    if csv is not None and csv == json_file:
        raise UserError("scaling: --csv and --json name the same file; give two")
    found = measure_scaling(runs)
    if found is None:
        raise UserError(
            f"scaling: {printable(str(sweep))} holds runs of fewer than two numbers of ranks; make a sweep "
            "with kakurenbo launch or submit --scaling"
        )
    print("\n".join([scaling_text(found), *problems(records)]))
    for path, text in ((csv, _csv), (json_file, _json)):
        if path is not None:
            try:
                write_whole(path, text(found))
            except OSError as problem:
                raise UserError(
                    f"scaling: {path} cannot be written ({problem.strerror}); give another file"
                ) from None
            print(path)


def scaling_text(found: Scaling) -> str:
    """Return the sweep as a table for a terminal."""
    heads = ["ranks", "nodes", "batch", "samples/s", "speed-up", "efficiency", "imbalance", "node-hours"]
    rows = [[*heads, "accuracy", *STAGES]]
    for scale in found.scales:
        efficiency = "oversubscribed" if scale.oversubscribed else _percent(scale.efficiency)
        rows.append(
            [
                f"{scale.ranks}",
                f"{scale.nodes}",
                f"{scale.global_batch or '-'}",
                f"{scale.samples_per_second:,.0f}",
                f"{scale.speed_up:.2f}",
                efficiency,
                "-" if scale.imbalance is None else f"{scale.imbalance:.2f}",
                f"{scale.node_hours:.3g}",
                "-" if scale.accuracy is None else f"{scale.accuracy:.4f}",
                *(_percent(scale.shares.get(stage)) for stage in STAGES),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([f"{found.kind} scaling", *lines, *found.notes])


def _scale(ranks: int, runs: Sequence[Run], base: Scale | None) -> Scale:
    facts = runs[0].provenance
    per_node = _whole(facts.get("ranks_per_node")) or ranks
    threads, cores = _whole(facts.get("threads_per_rank")), _whole(facts.get("physical_cores"))
    if cores is None:
        cores = _whole(facts.get("cores"))
    oversubscribed = not facts.get("gpu") and cores is not None and per_node * (threads or 1) > cores
    rate = float(np.mean([np.nansum(_warm(_forward(run))) / np.nansum(_warm(_busy(run))) for run in runs]))
    speed_up = rate / base.samples_per_second if base else 1.0
    per_rank = speed_up * (base.ranks if base else ranks) / ranks
    nodes = -(-ranks // per_node)
    hours = float(np.mean([_hours(run) for run in runs]))
    accuracies = [run.accuracy()[-1] for run in runs if np.isfinite(run.accuracy()[-1])]
    return Scale(
        ranks,
        nodes,
        threads,
        oversubscribed,
        _whole(facts.get("global_batch")),
        _largest(runs[0].column("lr")),
        rate,
        speed_up,
        None if oversubscribed or (base is not None and base.oversubscribed) else per_rank,
        _shares(runs),
        _imbalance(runs),
        hours,
        hours * nodes,
        float(np.mean(accuracies)) if accuracies else None,
        sum(len(run.lines) for run in runs),
    )


def _busy(run: Run) -> np.ndarray:
    """Return the seconds of planning, training and refresh of every epoch."""
    stages = [np.nan_to_num(run.column("seconds", stage)) for stage in ("plan", "train", "refresh")]
    return np.sum(stages, axis=0)


def _forward(run: Run) -> np.ndarray:
    return run.column("n_forward")


def _warm(epochs: np.ndarray) -> np.ndarray:
    return epochs[1:] if len(epochs) > 1 else epochs


def _hours(run: Run) -> float:
    total = run.column("seconds", "total")
    missing = max(0, run.epochs - len(total)) * float(np.nanmean(_warm(total)))
    return (float(np.nansum(total)) + missing) / 3600


def _shares(runs: Sequence[Run]) -> dict[str, float]:
    total = sum(float(np.nansum(_warm(run.column("seconds", "total")))) for run in runs)
    seconds = {
        stage: sum(float(np.nansum(_warm(run.column("seconds", stage)))) for run in runs) for stage in STAGES
    }
    return {stage: s / total for stage, s in seconds.items()} if total else {}


def _imbalance(runs: Sequence[Run]) -> float | None:
    slowest, mean = (
        sum(float(np.nansum(_warm(run.column("seconds", name)))) for run in runs)
        for name in ("slowest_rank", "mean_rank")
    )
    return slowest / mean if mean > 0 else None


def _kind(scales: Sequence[Scale]) -> str:
    if len({scale.global_batch for scale in scales}) == 1:
        return "strong"
    of_a_rank = {(scale.global_batch or 0) / scale.ranks for scale in scales}
    return "weak" if len(of_a_rank) == 1 else "mixed"


def _notes(kind: str, scales: Sequence[Scale]) -> list[str]:
    first, last = scales[0], scales[-1]
    notes = []
    if kind != "strong":
        rate = "stays" if first.lr == last.lr else f"goes from {first.lr or 0:.3g} to {last.lr or 0:.3g}"
        notes.append(
            f"the global batch goes from {first.global_batch} to {last.global_batch} samples, and the "
            f"learning rate {rate}: compare the accuracies"
        )
    if any(scale.oversubscribed for scale in scales):
        notes.append("oversubscribed: more threads of ranks than physical cores, so no efficiency")
    threads = {scale.threads for scale in scales}
    if len(threads) > 1:
        notes.append(
            f"threads per rank differ ({', '.join(map(str, sorted(t or 0 for t in threads)))}), so the "
            "rates are not of equal ranks; set OMP_NUM_THREADS"
        )
    return notes


def _differences(runs: Sequence[Run]) -> list[str]:
    """Return what else than their batch the runs' jobs differ in."""
    found = differing_keys([run.job for run in runs if run.job])
    return [
        f"the runs' jobs differ in {key} ({printable(', '.join(dict.fromkeys(values)))}), so this is no "
        "scaling of one job"
        for key, values in found.items()
        if key not in _BATCH and not key.startswith("record.")
    ]


def _csv(found: Scaling) -> str:
    rows = [_flat(scale) for scale in found.scales]
    cells = [",".join("" if value is None else f"{value}" for value in row.values()) for row in rows]
    return "\n".join([",".join(["kind", *rows[0]]), *(f"{found.kind},{line}" for line in cells)]) + "\n"


def _flat(scale: Scale) -> dict[str, object]:
    values = asdict(scale)
    shares = values.pop("shares")
    return values | {f"share_{stage}": shares.get(stage) for stage in STAGES}


def _json(found: Scaling) -> str:
    return json.dumps(asdict(found), indent=1) + "\n"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _largest(values: np.ndarray) -> float | None:
    return float(np.nanmax(values)) if np.isfinite(values).any() else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
