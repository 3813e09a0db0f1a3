"""Launchers: the interface of the programs that start ranks, and the command line that they make."""

from __future__ import annotations

import shlex
import signal
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from ..machine import Machine


@dataclass(frozen=True)
class CommandLine:
    """A command line that no shell reads.

    Attributes:
        words: the program and its arguments.
        environment: variables set for it, beside those of this process.
        interrupt_signal: what it is sent to end it when the user presses Ctrl-C.
    """

    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    interrupt_signal: int = signal.SIGINT

    def __str__(self) -> str:
        """Return it as a person would type it into a shell, every value quoted."""
        assignments = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*assignments, shlex.join(self.words)])


@dataclass(frozen=True)
class Layout:
    """Ranks, and the nodes of an allocation that they start on; without nodes, all of them here.

    Attributes:
        n_ranks: on all nodes together.
        n_nodes: number of nodes.
        hosts: names of these nodes, where not all of the allocation are used; else empty.
        attempt: how often the ranks have been started in this allocation, from 1.
    """

    n_ranks: int
    n_nodes: int | None = None
    hosts: tuple[str, ...] = ()
    attempt: int = 1

    @property
    def n_per_node(self) -> int:
        """Ranks on each node."""
        return self.n_ranks // (self.n_nodes or 1)


class Launcher(ABC):
    """A program that starts ranks: the ``starter`` of a machine file."""

    uses_mpi: ClassVar[bool] = True
    """Whether ranks meet by MPI."""

    machine_keys: ClassVar[frozenset[str]] = frozenset()
    """Keys of machine files that only some launchers use and this one does: ``mpi``."""

    containers: ClassVar[frozenset[str]] = frozenset({"apptainer"})
    """Runtimes of containers that it starts ranks in."""

    variables: ClassVar[str] = ""
    """Regular expression of the variables that it sets for ranks."""

    def check_machine(self, machine: Machine) -> None:
        """Raise ValueError for what this launcher cannot do with the machine; one line, with what to do."""
        return

    def check_nodes(self, machine: Machine, n_nodes: int) -> None:
        """Raise UserError where it cannot start ranks on so many nodes of the machine."""
        return

    def check_here(self, environ: Mapping[str, str]) -> None:
        """Raise UserError for what would keep the ranks of a job with this environment from meeting."""
        return

    def can_start_here(self, environ: Mapping[str, str]) -> bool:
        """Whether ranks can start in a shell with this environment; srun needs an allocation."""
        return True

    @abstractmethod
    def command_line(
        self, machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str]
    ) -> CommandLine:
        """Return the command line that starts a program on ranks, as the launcher is installed here.

        Args:
            machine: its ``environment`` is set for the ranks.
            layout: ranks and nodes.
            program: what each rank runs.
            environ: of the job's shell, where the layout has nodes.

        Raises:
            UserError: the launcher is not installed, or cannot start this layout.
        """

    def check_mpi(self, machine: Machine, library: str) -> str:
        """Return a sentence on how the launcher fits the MPI library that mpi4py loads; for ``doctor``.

        Args:
            machine: its ``mpi`` may name how ranks meet.
            library: the library's version, ``Open MPI v5.0.11``.

        Raises:
            UserError: the ranks would not meet.
            CheckWarning: they may not.
        """
        return library
