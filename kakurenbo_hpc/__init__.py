"""Train large networks in less time: choose each epoch, across all MPI ranks, which samples to train."""

import sys

# python -m puts the current folder first, where a user's random.py would stand for Python's own. While it
# looks for the module, argv[0] is -m.
if sys.argv[:1] == ["-m"] and not getattr(sys.flags, "safe_path", False):
    del sys.path[0]

__version__ = "0.1.0"
__all__ = ["Hiding"]


def __getattr__(name: str) -> type:
    if name == "Hiding":  # brings torch, which the login node does without
        from .hiding import Hiding

        return Hiding
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
