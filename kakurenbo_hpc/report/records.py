"""Records of runs: what run directories, comparisons and folders of them hold, and what they lack."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import UserError

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
_ALIVE_S = 120.0  # a heartbeat that is younger is that of a run that goes on
_HISTOGRAM = re.compile(r'"loss_histogram": \{[^{}]*\}, ')
_MEASURES = {"val_accuracy": "accuracy", "val_iou": "IoU"}


@dataclass
class Run:
    """One run.

    Attributes:
        path: its directory; of a run that only a comparison file tells of, that file.
        name: printable, as its directory is called.
        lines: metrics, a dictionary per epoch.
        job: resolved; empty if it is not there.
        provenance: versions and machine; empty if it is not there.
        problems: what is missing or damaged, a sentence each.
        cost: what the run had cost before it began, that of its scores; by metric, as "n_forward".
    """

    path: Path
    name: str
    lines: list[dict]
    job: dict = field(default_factory=dict)
    provenance: dict = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    cost: dict[str, float] = field(default_factory=dict)
    _columns: dict[tuple[str, ...], np.ndarray] = field(default_factory=dict, init=False, repr=False)

    @property
    def method(self) -> str:
        """Selection method."""
        return str(_section(self.job, "selection").get("method", "unknown"))

    @property
    def epochs(self) -> int:
        """Epochs that the job asks for; those that are there if it does not say."""
        asked = (_section(self.job, "training").get("epochs"), self.provenance.get("epochs"))
        return next((n for n in asked if isinstance(n, int) and n > 0), len(self.lines))

    @property
    def is_done(self) -> bool:
        """Whether all epochs are there."""
        return 0 < self.epochs <= len(self.lines)

    @property
    def state(self) -> str:
        """How far the run came."""
        if self.is_done:
            return f"done, {len(self.lines)} epochs"
        where = f"{len(self.lines)} of {self.epochs} epochs"
        return f"goes on, {where}" if _is_alive(self.path) else f"ended early, {where}"

    @property
    def measure(self) -> str:
        """What accuracy means here: accuracy, or mean IoU."""
        return next(
            (name for key, name in _MEASURES.items() if self.lines and key in self.lines[0]), "accuracy"
        )

    def column(self, *keys: str) -> np.ndarray:
        """Return a metric, float64, an entry per epoch; NaN where it is not known."""
        if keys not in self._columns:
            self._columns[keys] = np.array([_number(line, keys) for line in self.lines], np.float64)
        return self._columns[keys].copy()

    def accuracy(self) -> np.ndarray:
        """Return validation accuracy or mean IoU of every epoch."""
        return self.column("val_iou" if self.measure == "IoU" else "val_accuracy")

    def total(self, *keys: str) -> np.ndarray:
        """Return a metric, cumulative over epochs; what is not known counts as nothing."""
        return np.cumsum(np.nan_to_num(self.column(*keys))) + self.cost.get(".".join(keys), 0.0)

    def passes(self) -> np.ndarray:
        """Return cumulative forward + 2 x backward passes, in samples."""
        return self.total("n_forward") + 2 * self.total("n_backward")

    def ledgers(self, first: int = 0) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield epoch and columns of each ledger file from ``first`` on; a damaged one is left out."""
        import h5py

        for path in sorted((self.path / "ledger").glob("epoch_*.h5")):
            epoch = path.stem.removeprefix("epoch_")
            if not epoch.isdecimal() or int(epoch) < first:
                continue
            try:
                with h5py.File(path, "r") as file:
                    columns = {name: file[name][:] for name in file if file[name].ndim == 1}
            except (OSError, ValueError) as problem:
                self.tell(f"{path.name}: cannot be read ({printable(str(problem), 80)})")
                continue
            yield int(epoch), columns

    def hdf5(self, name: str) -> dict[str, np.ndarray]:
        """Return the datasets of an HDF5 file of the run; nothing if it is not there, or damaged."""
        import h5py

        if not (self.path / name).is_file():
            return {}
        try:
            with h5py.File(self.path / name, "r") as file:
                return {key: file[key][()] for key in file}
        except (OSError, ValueError) as problem:
            self.tell(f"{name}: cannot be read ({printable(str(problem), 80)})")
            return {}

    def files_of(self, folder: str) -> dict[int, str]:
        """Return the names of a folder's files by epoch: ``ledger``, ``test`` or ``weights``."""
        paths = sorted((self.path / folder).glob("epoch_*.h5"))
        named = ((path.stem.removeprefix("epoch_"), f"{folder}/{path.name}") for path in paths)
        return {int(epoch): name for epoch, name in named if epoch.isdecimal()}

    def classes(self) -> list[str]:
        """Return the names of the classes; none if they have none."""
        try:
            names = json.loads((self.path / "classes.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        return [printable(str(name), 40) for name in names] if isinstance(names, list) else []

    def exits(self) -> list[dict]:
        """Return the exit history: when the run stopped early, failed or was resumed."""
        return self._json_lines("exits.jsonl")

    def preflight(self) -> dict:
        """Return what the doctor found before the run; nothing if it was not asked."""
        return _read(self, "preflight.json", json.loads) if (self.path / "preflight.json").exists() else {}

    def accuracy_by_steps(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return steps and accuracies of all evaluations; None if there are none within epochs."""
        key = "val_iou" if self.measure == "IoU" else "val_accuracy"
        ends = self.total("steps")
        epochs = [int(line["epoch"]) for line in self.lines]
        begins: dict[float, float] = dict(zip(epochs, ends - self.column("steps"), strict=True))
        within = {}
        for line in self._json_lines("evaluations.jsonl"):
            epoch, step, accuracy = (_number(line, [name]) for name in ("epoch", "step", key))
            if not np.isfinite([epoch, step, accuracy]).all():
                self.tell("evaluations.jsonl: a line lacks epoch, step or accuracy, and is left out")
            elif np.isfinite(begins.get(epoch, np.nan)):  # else its epoch has not ended
                within[begins[epoch] + step] = accuracy
        if not within:
            return None
        points = sorted((within | dict(zip(ends.tolist(), self.accuracy().tolist(), strict=True))).items())
        steps, accuracy = np.array(points, np.float64).T
        return steps, accuracy

    def _json_lines(self, name: str) -> list[dict]:
        """Return the lines of a file; none if it is not there."""
        found = []
        try:
            texts = (self.path / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return []
        for text in texts:
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            if isinstance(line, dict):
                found.append(line)
            else:
                self.tell(f"{name}: a line is damaged, and left out")
        return found

    def tell(self, problem: str) -> None:
        """Note a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)


@dataclass
class Group:
    """Runs that differ in their seed alone."""

    name: str
    runs: list[Run]

    @property
    def first(self) -> Run:
        """The run that stands for the group where one is drawn: the first that is done, else the first."""
        return next((run for run in self.runs if run.is_done), self.runs[0])


@dataclass(frozen=True)
class Choices:
    """What figures of samples may be asked for.

    Attributes:
        share: of the highest losses, that are shown apart.
        epoch: whose files are read; the last if not given.
        ids: how many samples a history shows.
        is_weighted: whether a histogram counts each sample by its weight.
        by: loss or weight, by which thumbnails were chosen.
        extreme: highest, lowest, or both if empty.
    """

    share: float = 0.02
    epoch: int | None = None
    ids: int = 5
    is_weighted: bool = False
    by: str = "loss"
    extreme: str = ""


@dataclass
class Records:
    """All that a report is about; the baseline comes first, if there is one. A comparison has a title."""

    groups: list[Group]
    notes: list[str] = field(default_factory=list)
    choices: Choices = Choices()
    title: str = ""

    @property
    def runs(self) -> list[Run]:
        """All runs."""
        return [run for group in self.groups for run in group.runs]

    @property
    def baseline(self) -> Group | None:
        """The group that trains every sample."""
        return next(
            (g for g in self.groups if g.first.method == "everything" or g.name == "everything"), None
        )

    @property
    def hiding(self) -> list[Group]:
        """The groups that hide samples."""
        return [g for g in self.groups if np.nansum(g.first.column("n_hidden")) > 0]


def read_records(paths: Sequence[Path], histograms: bool = True, command: str = "report") -> Records:
    """Read runs, comparisons and folders of them.

    Args:
        paths: of them.
        histograms: whether to read the loss histograms, most of what metrics files hold.
        command: named by messages.

    Raises:
        UserError: a path is not there, or no run is in it.
    """
    groups: list[Group] = []
    runs: list[Run] = []
    for path in paths:
        if not path.is_dir():
            raise UserError(
                f"{command}: {printable(str(path))} is no folder; name a run directory, or a folder of runs"
            )
        if (path / "comparison.json").exists():
            groups += read_comparison(path, histograms)
            continue
        found = list(find_runs(path))
        if not found:
            raise UserError(
                f"{command}: {printable(str(path))} holds no run (metrics.jsonl, job.yaml, comparison.json); "
                "name a run directory, or a folder of runs"
            )
        runs += [read_run(p, histograms) for p in found]
    groups += group_by_seed(runs)
    records = Records(groups, title=_shown_by(paths[0]) if len(paths) == 1 else "")
    if (baseline := records.baseline) is not None:
        groups.remove(baseline)
        groups.insert(0, baseline)
    return records


def find_runs(path: Path, depth: int = 3) -> Iterator[Path]:
    """Yield the run directories at or below a folder, by name."""
    if any((path / name).exists() for name in ("metrics.jsonl", "job.yaml")):
        yield path
    elif depth:
        for below in sorted(p for p in path.iterdir() if p.is_dir()):
            yield from find_runs(below, depth - 1)


def read_run(path: Path, histograms: bool = True) -> Run:
    """Read a run directory; what is missing or damaged becomes a problem of the run."""
    run = Run(path, printable(path.resolve().name), [])
    run.job = _read(run, "job.yaml", lambda text: yaml.load(text, _LOADER))  # noqa: S506, a safe loader
    run.provenance = _read(run, "provenance.json", json.loads)
    lines: dict[int, dict] = {}
    try:
        whole = (path / "metrics.jsonl").read_text(encoding="utf-8", errors="replace")
        texts = (whole if histograms else _HISTOGRAM.sub("", whole)).splitlines()
    except OSError:
        texts = []
        run.tell("metrics.jsonl: is not there; no epoch has ended yet")
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
            lines[int(line["epoch"])] = line
        except (ValueError, KeyError, TypeError, OverflowError):
            end = (
                "the last line is cut in the middle" if number == len(texts) else f"line {number} is damaged"
            )
            run.tell(f"metrics.jsonl: {end}, and left out")
    run.lines = [lines[epoch] for epoch in sorted(lines)]
    return run


def read_comparison(path: Path, histograms: bool = True) -> list[Group]:
    """Read a comparison's folder: its runs where they lie beside it, else the curves of its file."""
    try:
        kept = json.loads((path / "comparison.json").read_text(encoding="utf-8"))
        curves, rows, names = kept["curves"], kept.get("contenders", {}), kept.get("runs", {})
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise UserError(
            f"report: {printable(str(path))}/comparison.json cannot be read ({problem}); "
            "run kakurenbo compare again"
        ) from None
    groups = []
    for name, runs in curves.items():
        directories = [path.parent / "runs" / Path(d).name for d in names.get(name, [])]
        if directories and all((d / "metrics.jsonl").exists() for d in directories):
            read = [_with_cost(read_run(d, histograms), c) for d, c in zip(directories, runs, strict=False)]
        else:
            hidden = rows.get(name, {}).get("hidden_fraction")
            read = [_from_curve(path, f"{name}, run {i}", c, hidden, kept) for i, c in enumerate(runs, 1)]
        groups.append(Group(printable(name), read))
    return groups


def _shown_by(path: Path) -> str:
    """Return what a comparison says it shows."""
    try:
        kept = json.loads((path / "comparison.json").read_text(encoding="utf-8"))
        return printable(kept.get("shows") or kept.get("name") or "")
    except (OSError, ValueError, AttributeError, TypeError):
        return ""


def group_by_seed(runs: Sequence[Run]) -> list[Group]:
    """Return the runs in groups that differ in seed and name alone, and on as many ranks."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        rest = {key: value for key, value in run.job.items() if key not in ("name", "seed")}
        key = (
            json.dumps([rest, run.provenance.get("ranks")], sort_keys=True, default=str)
            if rest
            else str(run.path)
        )
        groups.setdefault(key, []).append(run)
    taken: set[str] = set()
    named = []
    for members in groups.values():
        name = members[0].name if len(members) == 1 else members[0].method
        name = name if name not in taken else f"{name} ({members[0].path.parent.name}, {members[0].name})"
        taken.add(name)
        named.append(Group(printable(name), members))
    return named


def printable(text: str, most: int = 120) -> str:
    """Return a name that any document and terminal can hold: no control characters, not too long."""
    kept = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return kept if len(kept) <= most else kept[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _with_cost(run: Run, curve: dict) -> Run:
    """Return the run with the cost of its scores, which its curve holds and its metrics do not."""
    keys = {
        "steps": ("steps",),
        "forward": ("n_forward",),
        "backward": ("n_backward",),
        "seconds": ("seconds", "total"),
    }
    if run.lines:
        run.cost = {
            ".".join(key): max(curve[name][0] - run.total(*key)[0], 0.0) for name, key in keys.items()
        }
    return run


def _from_curve(path: Path, name: str, curve: dict, hidden: float | None, kept: dict) -> Run:
    """Return a run from the cumulative curve that a comparison file keeps of it."""
    keys = {"steps": "steps", "n_forward": "forward", "n_backward": "backward"}
    per_epoch = {key: np.diff(curve[name], prepend=0.0) for key, name in keys.items()}
    seconds = np.diff(curve["seconds"], prepend=0.0)
    lines = [
        {
            "epoch": epoch,
            "val_accuracy": accuracy,
            **{key: float(values[epoch]) for key, values in per_epoch.items()},
            "seconds": {"total": float(seconds[epoch])},
            **({} if hidden is None else {"hidden_fraction": hidden}),
        }
        for epoch, accuracy in enumerate(curve["accuracy"])
    ]
    provenance = {
        key: kept[key] for key in ("ranks", "python", "platform", "libraries", "commit") if key in kept
    }
    return Run(path / "comparison.json", printable(name), lines, provenance=provenance)


def _read(run: Run, name: str, parse: Any) -> dict:
    try:
        values = parse((run.path / name).read_text(encoding="utf-8"))
    except OSError:
        run.tell(f"{name}: is not there")
        return {}
    except (ValueError, yaml.YAMLError):
        run.tell(f"{name}: is damaged, and left out")
        return {}
    return values if isinstance(values, dict) else {}


def _section(values: dict, name: str) -> dict:
    section = values.get(name)
    return section if isinstance(section, dict) else {}


def _number(line: Any, keys: Sequence[str]) -> float:
    for key in keys:
        line = line.get(key) if isinstance(line, dict) else None
    return float(line) if isinstance(line, int | float) else np.nan


def _is_alive(path: Path) -> bool:
    try:
        return any(time.time() - p.stat().st_mtime < _ALIVE_S for p in (path / "heartbeat").iterdir())
    except OSError:
        return False
