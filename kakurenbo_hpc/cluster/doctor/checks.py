"""The table of the doctor's checks, in the order in which they are printed.

A check returns a sentence on what is right, or None where there is nothing to check. It raises CheckWarning
or UserError with what to do.
"""

from __future__ import annotations

from collections.abc import Callable

from .findings import Findings
from .job_checks import check_data, check_job, check_modules, check_scheduler, check_walltime
from .rank_checks import check_allreduce, check_binding, check_ranks, check_scratch
from .site_checks import (
    check_clocks,
    check_energy,
    check_network,
    check_peers,
    check_runs,
    check_site,
    check_space,
)
from .software_checks import (
    check_cuda,
    check_horovod,
    check_mpi,
    check_nccl,
    check_one_mpi,
    check_python,
    check_torch,
)

CHECKS: tuple[tuple[str, Callable[[Findings], str | None]], ...] = (
    ("site", check_site),
    ("python", check_python),
    ("torch", check_torch),
    ("cuda", check_cuda),
    ("nccl", check_nccl),
    ("mpi", check_mpi),
    ("one mpi", check_one_mpi),
    ("horovod", check_horovod),
    ("ranks", check_ranks),
    ("binding", check_binding),
    ("scratch", check_scratch),
    ("allreduce", check_allreduce),
    ("peers", check_peers),
    ("network", check_network),
    ("clocks", check_clocks),
    ("energy", check_energy),
    ("runs", check_runs),
    ("data", check_data),
    ("job", check_job),
    ("space", check_space),
    ("walltime", check_walltime),
    ("modules", check_modules),
    ("scheduler", check_scheduler),
)
