"""Sample id in, (input, target) out: the one list of data sets. Imports no torch, since every command line reads it."""

from pathlib import Path

from ..config.job import DataOptions
from ..distributed.comm import Comm
from .augmentation import augmented
from .dataset import DatasetSplits
from .datasets.deepcam import DeepCam
from .datasets.digits import Digits
from .datasets.hdf5 import Hdf5
from .datasets.visual_atoms import VisualAtoms
from .variations import varied

DATA: dict[str, type[DataOptions]] = {
    "deepcam": DeepCam,
    "digits": Digits,
    "hdf5": Hdf5,
    "visual_atoms": VisualAtoms,
}


def open_data(options: DataOptions, seed: int, comm: Comm, directory: Path | None = None) -> DatasetSplits:
    """Return the data set as the job wants it. Rank 0 alone opens it, and tells the others what it found. Collective.

    seed: the run's, for the draws of the training augmentation. directory: the run's.
    Raises DataError, on all ranks alike, if the data is not there, or cannot be varied or augmented as its options say.
    """
    data = comm.on_rank_zero(lambda: options.open(directory))
    return comm.run_or_raise_together(lambda: augmented(varied(data, options), options, seed))
