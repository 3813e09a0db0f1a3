"""Launchers: programs that start ranks, one file each, found by file name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...config.registry import Registry, scan
from ..container import inside_container
from .launcher import CommandLine, Launcher, Layout

if TYPE_CHECKING:
    from ..machine import Machine

LAUNCHERS: Registry[type[Launcher]] = Registry(
    "launcher", scan(__name__, leave_out=("launcher",)), "kakurenbo_hpc.launchers", Launcher
)


def open_launcher(name: str) -> Launcher:
    """Return the launcher of this name."""
    return LAUNCHERS[name]()


def launcher_line(
    machine: Machine, layout: Layout, program: list[str], environ: Mapping[str, str] = os.environ
) -> CommandLine:
    """Return the command line that starts a program on ranks, with the machine's launcher.

    Raises:
        UserError: the launcher is not installed, or cannot start this layout.
    """
    program = inside_container(machine, program)
    return open_launcher(machine.starter).command_line(machine, layout, program, environ)
