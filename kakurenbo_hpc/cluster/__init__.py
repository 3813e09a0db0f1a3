"""The login node's side: a machine and a job become a command line or a batch script. Imports neither torch nor MPI."""
