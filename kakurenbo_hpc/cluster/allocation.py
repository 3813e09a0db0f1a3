"""Nodes of the surrounding batch job: checked, and chosen for each attempt."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import UserError
from ..rundir.console import print_line
from .launchers.launcher import Layout
from .machine import Machine
from .schedulers import open_scheduler
from .schedulers.scheduler import Scheduler

_LIMIT_S = 60
_AT_ONCE = 32


class TooFewNodes(UserError):
    """The nodes that are left cannot take the job's ranks."""


@dataclass
class Allocation:
    """Nodes of a batch job.

    Attributes:
        scheduler: of the job; None outside one.
        hosts: all nodes, by the scheduler's names; empty where they are not known, and all are taken.
        run: run directory; None where no batch script reads which nodes were left out.
        lost: why a node is left out, by host.
        n_missing: ranks by which the last layout that was chosen falls short of the one asked for.
    """

    scheduler: Scheduler | None = None
    hosts: tuple[str, ...] = ()
    run: Path | None = None
    lost: dict[str, str] = field(default_factory=dict)
    n_missing: int = 0

    @classmethod
    def of_this_job(cls, machine: Machine, run: Path, environ: Mapping[str, str] = os.environ) -> Allocation:
        """Return the nodes of the job that this process runs in, for a run in this directory."""
        scheduler = open_scheduler(machine.scheduler) if machine.scheduler != "none" else None
        if scheduler is None or scheduler.job_variable not in environ:
            return cls()
        return cls(scheduler, tuple(scheduler.job_hosts(environ)), run)

    def leave_out(self, hosts: Iterable[str], why: str) -> None:
        """Leave hosts out of all further attempts, as far as they are nodes of this job.

        The batch script asks for other nodes when it puts the job into the queue again, where it can.
        """
        for host in {*hosts} & {*self.hosts} - {*self.lost}:
            self.lost[host] = why
            print_line(f"node {host} is left out: {why}")
        if self.lost and self.run and (self.run / "batch").is_dir():
            with contextlib.suppress(OSError):  # a full disk must not end the run
                (self.run / "batch" / "lost_nodes").write_text(",".join(self.lost) + "\n", encoding="utf-8")

    def check(self, machine_file: Path) -> None:
        """Check all nodes that are not left out yet, and leave out those that fail or do not answer."""
        if self.scheduler is None:
            return
        program = [sys.executable, "-m", "kakurenbo_hpc.cluster.node_check", str(machine_file), str(self.run)]
        hosts = [host for host in self.hosts if host not in self.lost]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            lines = [self.scheduler.on_host(host, program) for host in hosts]
            for host, problem in zip(hosts, pool.map(_check, lines), strict=True):
                if problem:
                    self.leave_out([host], problem)

    def choose(self, wanted: Layout, attempt: int, fits: Callable[[int], bool]) -> Layout:
        """Return the layout of an attempt: on as many nodes as are wanted, else on the most that fit the job.

        Args:
            wanted: the layout that was asked for.
            attempt: how often ranks are started here, from 1.
            fits: whether the job trains on so many ranks.

        Raises:
            TooFewNodes: the job does not fit the nodes that are left.
        """
        wanted = replace(wanted, attempt=attempt)
        if wanted.n_nodes is None or not self.hosts:
            return wanted
        fit = [host for host in self.hosts if host not in self.lost]
        if len(self.hosts) == wanted.n_nodes and not self.lost:
            return wanted if attempt == 1 else replace(wanted, hosts=self.hosts)
        for n_nodes in range(min(wanted.n_nodes, len(fit)), 0, -1):
            n_ranks = n_nodes * wanted.n_per_node
            if n_nodes == wanted.n_nodes or fits(n_ranks):
                self.n_missing = wanted.n_ranks - n_ranks
                return Layout(n_ranks, n_nodes, tuple(fit[:n_nodes]), attempt)
        raise TooFewNodes(
            f"{len(fit)} of the job's {len(self.hosts)} nodes are left, and the run does not fit so few"
        )


def _check(line: list[str]) -> str:
    """Run the check of one node; return its problem, empty if there is none."""
    if not line:
        return ""
    try:
        done = subprocess.run(
            line, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"no answer to a check in {_LIMIT_S} s"
    said = " ".join((done.stdout.strip() or done.stderr.strip()).split())
    return (said[:200] or f"its check ended with {done.returncode}") if done.returncode else ""
