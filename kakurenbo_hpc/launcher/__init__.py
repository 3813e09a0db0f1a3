"""On the login node: a machine and a job become a command line that starts ranks. Imports neither torch nor MPI."""
