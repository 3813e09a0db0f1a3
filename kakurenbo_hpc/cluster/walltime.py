"""Walltimes: as people write them, in seconds, and as batch systems read them."""

from __future__ import annotations

import re

from ..errors import JobError, UserError
from .machine import Machine
from .schedulers import open_scheduler

_UNITS = {"m": 60, "h": 3600, "d": 86400}


def parse_walltime(walltime: str) -> int:
    """Return the seconds of ``2h``, ``90m``, ``1d``, ``HH:MM:SS`` or ``D-HH:MM:SS``.

    Raises:
        UserError: any other text, or no time at all.
    """
    if unit := re.fullmatch(r"([0-9]{1,6})([mhd])", walltime):
        walltime_s = int(unit[1]) * _UNITS[unit[2]]
    elif parts := re.fullmatch(r"(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])", walltime):
        sizes = (86400, 3600, 60, 1)
        walltime_s = sum(int(part or 0) * size for part, size in zip(parts.groups(), sizes, strict=True))
    else:
        raise UserError(f"--walltime {walltime}: not a time; write 2h, 90m, 1d, or HH:MM:SS")
    if walltime_s == 0:
        raise UserError(f"--walltime {walltime}: no time at all; write 2h, 90m, 1d, or HH:MM:SS")
    return walltime_s


def check_walltime(walltime: str, machine: Machine) -> int:
    """Return the seconds of a walltime.

    Raises:
        UserError: it is none, or leaves no time before the early signal.
    """
    walltime_s = parse_walltime(walltime)
    scheduler = open_scheduler(machine.scheduler) if machine.scheduler != "none" else None
    early_s = scheduler.early_signal_s if scheduler else 0
    if walltime_s <= machine.grace_s + early_s:
        by = f", by {scheduler.title} up to {early_s} s earlier" if scheduler and early_s else ""
        raise JobError(
            f"--walltime {walltime}: a run is told to leave {machine.grace_s} s before its end "
            f"(grace_s of {machine.name}){by}; give more"
        )
    return walltime_s


def format_clock(seconds: int) -> str:
    """Return HH:MM:SS, which Slurm and PBS read alike."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
