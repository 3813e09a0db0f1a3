"""Sample id in, (input, target) out: the one list of data sets. Imports no torch, since every command line reads it."""

from ..job import DataOptions
from .augmentation import augmented
from .digits import Digits
from .source import Data
from .variations import varied
from .visual_atoms import VisualAtoms

DATA: dict[str, type[DataOptions]] = {
    "digits": Digits,
    "visual_atoms": VisualAtoms,
}


def open_data(options: DataOptions, seed: int) -> Data:
    """Return the data set as the job wants it. seed: the run's, for the draws of the training augmentation.

    Raises DataError if the data is not there, or cannot be varied or augmented as its options say.
    """
    return augmented(varied(options.open(), options), options, seed)
