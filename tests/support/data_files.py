"""Small HDF5 data sets, written sample by sample in any form that HDF5 has."""

from pathlib import Path

import h5py
import numpy as np

FORMS = {
    "contiguous": {},
    "chunked": {"chunks": True},
    "compressed": {"chunks": True, "compression": "gzip", "shuffle": True},
    "big endian": {"dtype": ">f4"},
    "float64": {"dtype": "f8"},
}


def fields(n: int, seed: int = 0, shape=(8, 12, 4)) -> tuple[np.ndarray, np.ndarray]:
    """Return n samples, (n, H, W, C) float32, and their masks, (n, H, W)."""
    rng = np.random.default_rng(seed)
    return rng.normal(50, 20, (n, *shape)).astype(np.float32), rng.integers(0, 3, (n, *shape[:2])).astype(
        np.float32
    )


def write_deepcam(
    root: Path, inputs: np.ndarray, masks: np.ndarray, form: str = "contiguous", part: str = "train"
) -> None:
    """Write one file a sample, and stats.h5 of these samples."""
    (root / part).mkdir(parents=True, exist_ok=True)
    for number, (input, mask) in enumerate(zip(inputs, masks)):
        with h5py.File(root / part / f"data-{number:04d}.h5", "w") as file:
            file.create_dataset("climate/data", data=input, **FORMS[form])
            file["climate/labels_0"] = mask
    with h5py.File(root / "stats.h5", "w") as file:
        file["climate/minval"], file["climate/maxval"] = inputs.min((0, 1, 2)), inputs.max((0, 1, 2))


def write_rows(path: Path, inputs: np.ndarray, labels: np.ndarray, **how) -> None:
    """Write many samples into one file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("inputs", data=inputs, **how)
        file["labels"] = labels
