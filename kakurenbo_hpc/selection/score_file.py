"""Score files: one number for each sample, from `kakurenbo score` or from a run of sample_importance; weights are scores.

HDF5. Datasets ``id`` (N,) int64, 0 to N - 1 in order, ``score`` (N,) float64, and, where the classes were known,
``label`` (N,) int32. Attributes: the fields of ``About``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from ..distributed.comm import Comm
from ..errors import DataError
from ..rundir.atomic_io import Hdf5

if TYPE_CHECKING:
    import h5py

_AT_ONCE = 1 << 22  # rows that rank 0 takes in before it writes them


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Paths = Annotated[list[str], BeforeValidator(_as_list)]  # one file may be written without brackets


@dataclass(frozen=True)
class ScoreInfo:
    """Where scores come from, and what they cost.

    method: such as el2n. how: one line that says it exactly enough to do it again. data, fingerprint: the data set.
    n: its samples. seconds, n_forward, n_backward: the cost, of all ranks' wall clock and of samples passed.
    """

    method: str
    how: str
    data: str
    fingerprint: str
    n: int
    seconds: float
    n_forward: int
    n_backward: int


def write_scores(
    path: str | Path, about: ScoreInfo, score: np.ndarray, comm: Comm, label: np.ndarray | None = None
) -> None:
    """Write the scores of all ranks' rows, which lie in order of rank; rank 0 writes, beside, and renames.

    score: (S,) floats, this rank's; label: (S,) int, on all ranks or on none. Rank 0 holds at most about 4M rows of
    others at a time. Raises DataError on every rank if the file cannot be written.
    """
    columns = {"id": None, "score": np.asarray(score, np.float64)}
    if label is not None:
        columns["label"] = np.asarray(label, np.int32)
    start = int(comm.exscan(np.array([len(score)]))[0])
    columns["id"] = np.arange(start, start + len(score), dtype=np.int64)
    written = _begun(path, about, columns) if comm.rank == 0 else None
    for turn in range(int(comm.max(np.array([start // _AT_ONCE]))[0]) + 1):
        mine = slice(None) if start // _AT_ONCE == turn else slice(0)
        parts = {name: _to_first(column[mine], comm) for name, column in columns.items()}
        if written is not None:
            _append(written, parts)
    comm.on_rank_zero(lambda: _close(path, written))


def read_scores(
    paths: Sequence[str], rows: range, n_total: int, fingerprint: str, labels: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return these rows' scores, (S,) float64, the mean over the files, and their labels, (S,) int32, if asked for.

    rows: of the n_total samples of the data set with this fingerprint. Reads these rows only. A NaN in one file is a NaN.
    Raises DataError, perhaps on one rank only, if a file is not what it should be.
    """
    total, label = np.zeros(len(rows)), None
    for path in paths:
        with _opened(path) as file:
            _check(path, file, rows, n_total, fingerprint)
            total += file["score"][rows.start : rows.stop]
            if labels and label is None:
                if "label" not in file:
                    raise DataError(
                        f"{path}: has no labels, which class_balance needs; score again, or set class_balance: false"
                    )
                label = file["label"][rows.start : rows.stop].astype(np.int32)
    return total / max(1, len(paths)), label


def read_weights(paths: Sequence[str], rows: range, n_total: int, fingerprint: str) -> np.ndarray:
    """Return what ``read_scores`` does, to be drawn by: a negative one is a DataError."""
    weight, _ = read_scores(paths, rows, n_total, fingerprint)
    negative = np.flatnonzero(weight < 0)
    if len(negative):
        first = negative[0]
        raise DataError(
            f"{', '.join(paths)}: id {rows[first]} has {weight[first]:g}, but weights to draw by cannot be negative"
        )
    return weight


def about_scores(path: str) -> ScoreInfo:
    """Return where a file's scores come from. Raises DataError if it is no score file."""
    with _opened(path) as file:
        return _about(path, file)


def _begun(path: str | Path, about: ScoreInfo, columns: Mapping[str, Any]) -> Hdf5:
    written = Hdf5(Path(path))
    for name, column in columns.items():
        written.file.create_dataset(name, (0,), column.dtype, maxshape=(None,), chunks=(1 << 16,))
    written.file.attrs.update(dataclasses.asdict(about))
    return written


def _append(written: Hdf5, parts: Mapping[str, np.ndarray]) -> None:
    for name, part in parts.items():
        column = written.file[name]
        n = len(column)
        column.resize(n + len(part), axis=0)
        column[n:] = part


def _close(path: str | Path, written: Hdf5) -> None:
    try:
        written.close()
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be written ({problem.strerror}); make room, or choose another place"
        ) from None


def _to_first(column: np.ndarray, comm: Comm) -> np.ndarray:
    return np.concatenate(comm.alltoallv([column] + [column[:0]] * (comm.size - 1)))


def _opened(path: str) -> h5py.File:
    import h5py

    if not os.path.isfile(path):  # Path.is_file would raise where the name is too long
        raise DataError(f"{path}: no such score file; write one with kakurenbo score")
    try:
        return h5py.File(path, "r")
    except OSError:
        raise DataError(f"{path}: not an HDF5 file; write one with kakurenbo score") from None


def _about(path: str, file: h5py.File) -> ScoreInfo:
    names = [field.name for field in dataclasses.fields(ScoreInfo)]
    columns = [name for name in ("id", "score", "label") if name in file or name != "label"]
    missing = [name for name in columns if not _is_column(file.get(name))] + [
        name for name in names if np.ndim(file.attrs.get(name, ())) != 0
    ]
    if missing:
        raise DataError(f"{path}: no score file, {missing[0]} is missing; write one with kakurenbo score")
    return ScoreInfo(
        **{name: getattr(file.attrs[name], "item", lambda v=file.attrs[name]: v)() for name in names}
    )


def _is_column(found: Any) -> bool:
    return found is not None and getattr(found, "ndim", 0) == 1 and found.dtype.kind in "biuf"


def _check(path: str, file: h5py.File, rows: range, n_total: int, fingerprint: str) -> None:
    found = _about(path, file)
    again = "score this data set"
    if not found.n == len(file["score"]) == len(file["id"]) == n_total:
        raise DataError(
            f"{path}: scores of {len(file['score'])} samples, but the data set has {n_total}; {again}"
        )
    if found.fingerprint != fingerprint:
        raise DataError(
            f"{path}: scores of data set {found.data} ({found.fingerprint}), but this run's data is another ({fingerprint}); {again}"
        )
    ids = file["id"][rows.start : rows.stop]
    wrong = np.flatnonzero(ids != np.arange(rows.start, rows.stop))
    if len(wrong):
        raise DataError(
            f"{path}: id {rows[wrong[0]]} is missing, {ids[wrong[0]]} stands in its place; give all ids, in order"
        )
