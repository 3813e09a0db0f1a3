"""Command line: parses arguments and calls; imports neither torch nor MPI before a run needs them."""

from .app import app, main

__all__ = ["app", "main"]
