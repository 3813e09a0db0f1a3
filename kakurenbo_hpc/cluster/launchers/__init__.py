"""Launchers: the command line that starts ranks (mpirun, mpiexec, srun, torchrun)."""
