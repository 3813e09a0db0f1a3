"""Packed images: encoded files, one after another, in the parts that ``kakurenbo data pack`` makes.

A part ``{train,validation}/part_0000.h5`` holds ``bytes`` (n_bytes,) uint8, contiguous and unfiltered, where
image i lies from ``offsets[i]`` to ``offsets[i + 1]``; ``labels`` (n,) int64 with the names of the classes as
the attribute ``classes``; and ``names`` (n,), of the files that the images were.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ...errors import DataError
from ...rundir.console import bar
from ..hdf5.layout import THROUGH_H5PY, read_layout
from .listing import Listing, keep, load, places_for

ABOUT = "packed.json"  # {"images": digest, "encoded": true, "parts": {"train": 140, "validation": 7}}


def is_packed(root: Path) -> bool:
    """Return whether a folder holds packed images as encoded files."""
    return bool(_about(root).get("encoded"))


def find_packed(root: Path, split: str, directory: Path | None = None) -> Listing:
    """Return the listing of a split of packed images: the kept one, or a new one to keep.

    Args:
        root: the folder of the parts.
        split: ``train`` or ``validation``.
        directory: where the listing is kept if not beside the data.

    Raises:
        DataError: parts are missing or damaged, or do not fit a kept listing.
    """
    sizes = _sizes(root, split)
    places = places_for(f"{split}_packed", root, directory)
    for place in places:
        if (kept := load(place, root)) is not None:
            listing, known = kept
            if known != sizes:
                raise DataError(
                    f"{root / split}: has other parts than when they were listed; if that is right, remove "
                    f"{place.with_suffix('.json')}"
                )
            return listing
    indices: list[np.ndarray] = []
    classes: Sequence[str] = ()
    for part, name in enumerate(bar(iter(sizes), len(sizes), "list")):
        index, classes = _read_index(root / name, part)
        indices.append(index)
    rows = np.concatenate(indices)
    return Listing(
        root, keep(rows, {"classes": classes, "parts": sizes}, places), tuple(classes), tuple(sizes)
    )


def _about(root: Path) -> dict:
    try:
        return dict(json.loads((root / ABOUT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _sizes(root: Path, split: str) -> dict[str, int]:
    """Return the size of each part by its name.

    Raises:
        DataError: some are missing.
    """
    n = int(_about(root)["parts"][split])
    names = [f"{split}/part_{number:04d}.h5" for number in range(n)]
    try:
        return {name: (root / name).stat().st_size for name in names}
    except OSError as problem:
        raise DataError(
            f"{problem.filename}: cannot be read ({problem.strerror}); pack the images again, which goes on "
            "where it stopped, or copy the part again"
        ) from None


def _read_index(path: Path, part: int) -> tuple[np.ndarray, list[str]]:
    """Return the rows of a part's images, and the names of all classes.

    Raises:
        DataError: it cannot be read, or its bytes do not lie where they can be read without HDF5.
    """
    layout = read_layout(path, ("bytes",), single=True)
    try:
        with h5py.File(path) as file:
            names, labels, offsets = (file[name][...] for name in ("names", "labels", "offsets"))
            classes = [os.fsdecode(name) for name in file["labels"].attrs["classes"]]
        sizes = np.diff(offsets)
        if not len(names) == len(labels) == len(sizes) or (offsets[0], offsets[-1]) != (0, *layout.shapes[0]):
            raise ValueError("its offsets do not fit its bytes")
        if layout.offsets[0] == THROUGH_H5PY or (sizes <= 0).any():
            raise ValueError("its bytes are not as they were packed")
        if labels.min() < 0 or labels.max() >= len(classes) or any(map(_leads_out, names)):
            raise ValueError("its labels or names are not as they were packed")
    except (OSError, KeyError, ValueError, TypeError) as problem:
        raise DataError(f"{path}: not a part of packed images ({problem}); copy it again") from None
    rows = np.empty(
        len(names),
        [
            ("name", f"S{names.dtype.itemsize}"),
            ("label", np.int32),
            ("size", np.int64),
            ("changed", np.int64),
            ("part", np.int32),
            ("offset", np.int64),
        ],
    )
    rows["name"], rows["label"], rows["size"] = names, labels, sizes
    rows["changed"] = path.stat().st_mtime_ns
    rows["part"], rows["offset"] = part, layout.offsets[0] + offsets[:-1]
    return rows, classes


def _leads_out(name: bytes) -> bool:
    """Return whether a name would lead out of the folder to which the image is copied."""
    return name.startswith(b"/") or b".." in name.split(b"/")
