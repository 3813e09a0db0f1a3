"""Selection methods: which samples are trained. Imports neither torch nor MPI, as every command reads it."""

from ..config.registry import Registry, scan
from .method import Method

METHODS: Registry[type[Method]] = Registry(
    "selection.method", scan(f"{__name__}.methods"), "kakurenbo_hpc.methods", Method
)
