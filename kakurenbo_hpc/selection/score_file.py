"""Score files: one number for each sample, from `kakurenbo score`, or the weights of sample_importance.

HDF5. Datasets ``id`` (N,) int64, 0 to N - 1 in order, ``score`` (N,) float64, and, where the classes were
known, ``label`` (N,) int32; of a method that chooses a subset ``place`` (N,) int64, from 0 in the order in
which samples were chosen, -1 for those that were not, and perhaps ``weight`` (N,) float64. Attributes: the
fields of ``ScoreInfo``.
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

from ..config.options import ExpandedPath
from ..distributed.comm import Comm
from ..errors import DataError
from ..rundir.atomic_io import Hdf5

if TYPE_CHECKING:
    import h5py

_AT_ONCE = 1 << 22  # rows that rank 0 receives before it writes them


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Paths = Annotated[list[ExpandedPath], BeforeValidator(_as_list)]  # one file may be written without brackets


@dataclass(frozen=True)
class ScoreInfo:
    """Origin and cost of scores.

    Attributes:
        method: such as el2n.
        how: one line that says it exactly enough to repeat it.
        data: name of the data set.
        fingerprint: of the data set.
        n: samples of the data set.
        seconds: wall-clock time of the whole run.
        n_forward: forward passes of samples.
        n_backward: backward passes of samples.
        places: what places are counted in: class, all, or none where there are only scores.
        fraction: share hidden that the file is for; -1 where it serves every fraction.
        weighted: whether the method gives weights.
        n_filled: samples of a subset that were only drawn to fill it up; -1 where nothing is filled up.
    """

    method: str
    how: str
    data: str
    fingerprint: str
    n: int
    seconds: float
    n_forward: int
    n_backward: int
    places: str = "none"
    fraction: float = -1.0
    weighted: bool = False
    n_filled: int = -1


def write_scores(
    path: str | Path,
    info: ScoreInfo,
    score: np.ndarray,
    comm: Comm,
    label: np.ndarray | None = None,
    place: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> None:
    """Write the scores of all ranks' rows, in order of rank, through rank 0 and a temporary file.

    Rank 0 holds at most about 4M rows of others at a time.

    Args:
        path: the score file.
        info: goes into the file's attributes.
        score: (S,) floats, of this rank's rows.
        comm: all ranks.
        label: (S,) int, on all ranks or on none.
        place: (S,) int, likewise.
        weight: (S,) floats, likewise.

    Raises:
        DataError: the file cannot be written; on all ranks alike.
    """
    start = int(comm.exscan(np.array([len(score)]))[0])
    columns: dict[str, np.ndarray] = {
        "id": np.arange(start, start + len(score), dtype=np.int64),
        "score": np.asarray(score, np.float64),
    }
    optional = (("label", label, np.int32), ("place", place, np.int64), ("weight", weight, np.float64))
    columns |= {name: np.asarray(column, dtype) for name, column, dtype in optional if column is not None}
    output = _create(path, info, columns) if comm.rank == 0 else None
    for turn in range(int(comm.max(np.array([start // _AT_ONCE]))[0]) + 1):
        rows = slice(None) if start // _AT_ONCE == turn else slice(0)
        parts = {name: _send_to_rank_zero(column[rows], comm) for name, column in columns.items()}
        if output is not None:
            _append(output, parts)
    comm.on_rank_zero(lambda: _close(path, output))


def read_scores(
    paths: Sequence[str], rows: range, n_total: int, fingerprint: str, labels: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the scores of these rows, and only these.

    Args:
        paths: score files of the same data set.
        rows: ids to read.
        n_total: samples of the data set.
        fingerprint: of the data set.
        labels: whether to read labels too.

    Returns:
        (S,) float64, the mean over the files, where a NaN in one is a NaN; and (S,) int32 labels or None.

    Raises:
        DataError: a file is missing, damaged or of another data set; perhaps on one rank only.
    """
    total, label = np.zeros(len(rows)), None
    for path in paths:
        with _open(path) as file:
            _check(path, file, rows, n_total, fingerprint)
            total += file["score"][rows.start : rows.stop]
            if labels and label is None:
                if "label" not in file:
                    raise DataError(
                        f"{path}: has no labels, which class_balance needs; score again, or set "
                        "class_balance: false"
                    )
                label = file["label"][rows.start : rows.stop].astype(np.int32)
    return total / max(1, len(paths)), label


def read_weights(paths: Sequence[str], rows: range, n_total: int, fingerprint: str) -> np.ndarray:
    """Read scores to be used as sampling weights; as ``read_scores``, but a negative one is a DataError."""
    weight, _ = read_scores(paths, rows, n_total, fingerprint)
    negative = np.flatnonzero(weight < 0)
    if len(negative):
        first = negative[0]
        raise DataError(
            f"{', '.join(paths)}: id {rows[first]} has {weight[first]:g}, but weights to draw by "
            "cannot be negative"
        )
    return weight


def read_places(
    path: str, rows: range, n_total: int, fingerprint: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read who is chosen, of a file whose places are not "none".

    Returns:
        (S,) int64, the places of these rows; (S,) int64, among how many samples each one's place is counted;
        and (S,) float64 weights, 1 where the method gives none.

    Raises:
        DataError: the file is missing, damaged or of another data set; perhaps on one rank only.
    """
    with _open(path) as file:
        _check(path, file, rows, n_total, fingerprint)
        info = _info(path, file)
        needed = ["place"] + ["label"] * (info.places == "class") + ["weight"] * info.weighted
        for name in needed:
            if not _is_column(file.get(name)) or len(file[name]) != n_total:
                raise DataError(f"{path}: {name} of its {n_total} samples is missing; score again")
        part = slice(rows.start, rows.stop)
        among = np.full(len(rows), n_total, np.int64)
        if info.places == "class":
            among = _class_sizes(file["label"])[file["label"][part] + 1]
        weight = file["weight"][part] if info.weighted else np.ones(len(rows))
        return file["place"][part].astype(np.int64), among, weight.astype(np.float64)


def _class_sizes(label: h5py.Dataset) -> np.ndarray:
    """Return how many samples have each label, from -1 on, (C + 1,) int64."""
    sizes = np.zeros(0, np.int64)
    for start in range(0, len(label), _AT_ONCE):
        part = np.bincount(label[start : start + _AT_ONCE].astype(np.int64) + 1, minlength=len(sizes))
        part[: len(sizes)] += sizes
        sizes = part
    return sizes


def read_score_info(path: str) -> ScoreInfo:
    """Read where a file's scores come from.

    Raises:
        DataError: it is no score file.
    """
    with _open(path) as file:
        return _info(path, file)


def _create(path: str | Path, info: ScoreInfo, columns: Mapping[str, np.ndarray]) -> Hdf5:
    output = Hdf5(Path(path))
    for name, column in columns.items():
        output.file.create_dataset(name, (0,), column.dtype, maxshape=(None,), chunks=(1 << 16,))
    output.file.attrs.update(dataclasses.asdict(info))
    return output


def _append(output: Hdf5, parts: Mapping[str, np.ndarray]) -> None:
    for name, part in parts.items():
        column = output.file[name]
        n = len(column)
        column.resize(n + len(part), axis=0)
        column[n:] = part


def _close(path: str | Path, output: Hdf5 | None) -> None:
    """Close the file and move it to its path; rank 0 alone has one."""
    if output is None:
        return
    try:
        output.close()
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be written ({problem.strerror}); make room, or choose another place"
        ) from None


def _send_to_rank_zero(column: np.ndarray, comm: Comm) -> np.ndarray:
    return np.concatenate(comm.alltoallv([column] + [column[:0]] * (comm.size - 1)))


def _open(path: str) -> h5py.File:
    import h5py

    if not os.path.isfile(path):  # Path.is_file would raise where the name is too long
        raise DataError(f"{path}: no such score file; write one with kakurenbo score")
    try:
        return h5py.File(path, "r")
    except OSError:
        raise DataError(f"{path}: not an HDF5 file; write one with kakurenbo score") from None


def _info(path: str, file: h5py.File) -> ScoreInfo:
    fields = dataclasses.fields(ScoreInfo)
    # Files from before there were places lack the fields that have a default.
    names = [one.name for one in fields if one.default is dataclasses.MISSING or one.name in file.attrs]
    columns = [name for name in ("id", "score", "label") if name in file or name != "label"]
    missing = [name for name in columns if not _is_column(file.get(name))] + [
        name for name in names if np.ndim(file.attrs.get(name, ())) != 0
    ]
    if missing:
        raise DataError(f"{path}: no score file, {missing[0]} is missing; write one with kakurenbo score")
    info = ScoreInfo(**{name: _to_python(file.attrs[name]) for name in names})
    if "weight" in file and not info.weighted:
        raise DataError(
            f"{path}: has weights, but {info.method} gives none; score again, or take the weights out"
        )
    return info


def _to_python(value: Any) -> Any:
    """Return a NumPy scalar as Python's own type."""
    return value.item() if hasattr(value, "item") else value


def _is_column(node: Any) -> bool:
    return node is not None and getattr(node, "ndim", 0) == 1 and node.dtype.kind in "biuf"


def _check(path: str, file: h5py.File, rows: range, n_total: int, fingerprint: str) -> None:
    """Check that the file has scores of this data set, with the ids in order.

    Raises:
        DataError: it has not.
    """
    info = _info(path, file)
    if not info.n == len(file["score"]) == len(file["id"]) == n_total:
        raise DataError(
            f"{path}: scores of {len(file['score'])} samples, but the data set has {n_total}; score "
            "this data set"
        )
    if info.fingerprint != fingerprint:
        raise DataError(
            f"{path}: scores of data set {info.data} ({info.fingerprint}), but this run's data is another "
            f"({fingerprint}); score this data set"
        )
    ids = file["id"][rows.start : rows.stop]
    wrong = np.flatnonzero(ids != np.arange(rows.start, rows.stop))
    if len(wrong):
        raise DataError(
            f"{path}: id {rows[wrong[0]]} is missing, {ids[wrong[0]]} stands in its place; "
            "give all ids, in order"
        )
