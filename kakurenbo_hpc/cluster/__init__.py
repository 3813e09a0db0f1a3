"""Cluster commands: from a machine and a job to a command line or a batch script.

Imports neither torch nor MPI: this runs on login nodes.
"""
