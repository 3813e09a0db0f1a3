"""Walltimes: what a person writes, in seconds, and what batch systems read."""

from __future__ import annotations

import re

from ..errors import JobError, UserError
from .machine import Machine

_UNITS = {"m": 60, "h": 3600, "d": 86400}


def seconds(walltime: str) -> int:
    """Return the seconds of ``2h``, ``90m``, ``1d``, ``HH:MM:SS`` or ``D-HH:MM:SS``. Raises UserError for any other text."""
    if unit := re.fullmatch(r"([0-9]{1,6})([mhd])", walltime):
        found = int(unit[1]) * _UNITS[unit[2]]
    elif parts := re.fullmatch(r"(?:([0-9]{1,3})-)?([0-9]{1,4}):([0-5][0-9]):([0-5][0-9])", walltime):
        found = sum(int(part or 0) * size for part, size in zip(parts.groups(), (86400, 3600, 60, 1)))
    else:
        raise UserError(f"--walltime {walltime}: not a time; write 2h, 90m, 1d, or HH:MM:SS")
    if found == 0:
        raise UserError(f"--walltime {walltime}: no time at all; write 2h, 90m, 1d, or HH:MM:SS")
    return found


def fitting_walltime(walltime: str, machine: Machine) -> int:
    """Return its seconds. Raises JobError if it leaves no time before the grace."""
    found = seconds(walltime)
    early = 60 if machine.scheduler == "slurm" else 0
    if found <= machine.grace_s + early:
        told = f"told to leave {machine.grace_s} s before its end (grace_s of {machine.name})"
        raise JobError(
            f"--walltime {walltime}: a run is {told}{f', by Slurm up to {early} s earlier' if early else ''}; give more"
        )
    return found


def clock(s: int) -> str:
    """Return HH:MM:SS, which both batch systems read alike."""
    return f"{s // 3600:02d}:{s // 60 % 60:02d}:{s % 60:02d}"
