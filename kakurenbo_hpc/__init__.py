"""kakurenbo_hpc: train large networks in less time by choosing, each epoch and across all MPI ranks, what to train on."""

__version__ = "0.1.0"
