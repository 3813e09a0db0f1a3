"""Comparisons with the lines of their tables that are known before anything runs."""

from kakurenbo_hpc.compare import entries, spec


def read_comparison(path, quick=False, seeds=None, overrides=()):
    """Return a comparison file and its lines."""
    comparison, jobs = spec.read_comparison(path, quick, seeds, overrides)
    return comparison, entries.list_entries(comparison, jobs, str(path))


def of_methods(job, methods, seeds, overrides=()):
    """Return the comparison of some methods on a job, and its lines."""
    comparison, jobs = spec.compare_methods(job, methods, seeds, overrides)
    return comparison, entries.list_entries(comparison, jobs, job)
