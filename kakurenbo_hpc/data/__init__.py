"""Sample id in, (input, target) out: the one list of data sets. Imports no torch, since every command line reads it."""

from ..job import DataOptions
from .digits import Digits

DATA: dict[str, type[DataOptions]] = {
    "digits": Digits,
}
