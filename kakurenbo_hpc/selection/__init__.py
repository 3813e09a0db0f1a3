"""Which samples matter: the one list of methods. Imports no torch and no MPI, since every command line reads it."""

from .method import Method
from .methods.everything import Everything
from .methods.kakurenbo import Kakurenbo
from .methods.random import Random

METHODS: dict[str, type[Method]] = {
    "everything": Everything,
    "random": Random,
    "kakurenbo": Kakurenbo,
}
