"""Data sets: sample id in, (input, target) out. Imports no torch, since every command reads it."""

from pathlib import Path

from ..config.job import DataOptions
from ..config.registry import Registry, scan
from ..distributed.comm import Comm
from .augmentation import augmented
from .dataset import DatasetSplits
from .variations import varied

DATASETS = Registry("data.name", scan(f"{__name__}.datasets"), "kakurenbo_hpc.datasets", DataOptions)


def open_data(options: DataOptions, seed: int, comm: Comm, directory: Path | None = None) -> DatasetSplits:
    """Open a data set, with the job's variations and augmentations. Collective; rank 0 alone looks at the files.

    Args:
        options: the job's section ``data``.
        seed: of the run, for the draws of the training augmentation.
        comm: all ranks.
        directory: the run directory.

    Raises:
        DataError: on all ranks alike, if the data is not there, or cannot be varied or augmented as asked.
    """
    data = comm.on_rank_zero(lambda: options.open(directory))
    return comm.run_or_raise_together(lambda: augmented(varied(data, options), options, seed))
