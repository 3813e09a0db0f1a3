"""Data sets: from sample ids to (input, target) batches.

Imports no torch, since every command line reads it.
"""

from pathlib import Path

from ..config.data_options import DataOptions
from ..config.registry import Registry, scan
from ..distributed.comm import Comm
from .augmentation import augment
from .dataset import DatasetSplits
from .variations import vary

DATASETS: Registry[type[DataOptions]] = Registry(
    "data.name", scan(f"{__name__}.datasets"), "kakurenbo_hpc.datasets", DataOptions
)


def open_data(options: DataOptions, seed: int, comm: Comm, directory: Path | None = None) -> DatasetSplits:
    """Open the job's data set with its variations and augmentation. Collective; rank 0 alone opens it.

    Args:
        options: the job's data section.
        seed: the run's, for the draws of the training augmentation.
        comm: all ranks.
        directory: the run directory, where what is learned about the files is kept if not beside the data.

    Raises:
        DataError: on all ranks alike, the data is missing, or does not fit its variations or augmentation.
    """
    data = comm.on_rank_zero(lambda: options.open(directory))
    return comm.run_or_raise_together(lambda: augment(vary(data, options), options, seed))
