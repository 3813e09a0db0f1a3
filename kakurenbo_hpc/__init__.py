"""Train large networks in less time: choose each epoch, across all MPI ranks, which samples to train."""

__version__ = "0.1.0"
__all__ = ["Hiding"]


def __getattr__(name: str) -> type:
    if name == "Hiding":  # brings torch, which the login node does without
        from .hiding import Hiding

        return Hiding
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
