"""Submit request: the arguments of ``kakurenbo submit``, parsed and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from .machine import Machine, check_word, read_machine
from .schedulers import open_scheduler
from .schedulers.scheduler import Options


class Array(NamedTuple):
    """Seeds of the runs of an array, and how many of them may run at a time (None: all)."""

    seeds: tuple[int, ...] = ()
    limit: int | None = None


@dataclass(frozen=True)
class Request:
    """What ``kakurenbo submit`` was called with.

    Attributes:
        machine: name or file of a machine.
        nodes: number of nodes; several make a sweep.
        walltime: as it was typed.
        overrides: ``section.key=value``.
        name: of the run, or of the sweep.
        run_dir: of the run, or of the sweep.
        dependency: in the batch system's own syntax.
        after: a run whose success it waits for, requeues included.
        array: a run for each of its seeds.
        scaling: what a sweep over nodes keeps: ``strong`` the global batch, ``weak`` the batch of each rank.
        queue: instead of the machine file's.
        account: instead of the machine file's.
        options: for the batch system.
        resume: go on with a run that exists.
        allow_changes: even if its job was another one.
        restarts: as ``kakurenbo launch --restarts``.
        force: without the checks before a submission.
        wait: until all that is submitted has ended.

    Raises:
        UserError: for the first value that is wrong.
    """

    machine: str
    nodes: tuple[int, ...]
    walltime: str
    overrides: tuple[str, ...] = ()
    name: str | None = None
    run_dir: Path | None = None
    dependency: str | None = None
    after: Path | None = None
    array: Array = Array()
    scaling: str | None = None
    queue: str | None = None
    account: str | None = None
    options: Options = Options()
    resume: bool = False
    allow_changes: bool = False
    restarts: int = 0
    force: bool = False
    wait: bool = False

    def __post_init__(self) -> None:
        check_scaling(self.scaling)
        _check_word("--dependency", self.dependency, "for example afterok:12")
        for name in ("queue", "account"):
            _check_word(f"--{name}", getattr(self, name), "give its name")
        for name, given in self.options._asdict().items():
            _check_word(f"--{name}", given, "give its name" if name != "mail" else "give one address")
        _check_name(self.name)

    def read_machine(self) -> Machine:
        """Return the machine, changed by the options of the command line.

        Raises:
            UserError: it has no batch system, or that one no such options.
        """
        machine = read_machine(self.machine)
        if machine.scheduler == "none":
            raise UserError(
                f"{machine.name} has no batch system; start here with kakurenbo launch, or choose another "
                "--machine"
            )
        lines = open_scheduler(machine.scheduler).options(self.options)
        given = {"queue": self.queue, "account": self.account}
        kept = [line for line in machine.extra if not any(_same_option(line, other) for other in lines)]
        update = {name: value for name, value in given.items() if value is not None}
        return machine.model_copy(update={**update, "extra": [*kept, *lines]})


def check_scaling(scaling: str | None) -> None:
    """Raise UserError unless it is strong, weak or not given."""
    if scaling not in (None, "strong", "weak"):
        raise UserError(
            f"--scaling is {scaling}, but must be strong (the global batch stays) or weak (the batch of each "
            "rank stays)"
        )


def parse_ranks(text: str | None, scaling: str | None) -> tuple[int, ...]:
    """Return the numbers of ranks of ``kakurenbo launch``, none where none is given.

    Raises:
        UserError: they are no numbers, or several and it is not said what stays the same.
    """
    check_scaling(scaling)
    n_ranks = parse_numbers("--ranks", text, 1) if text is not None else ()
    if len(n_ranks) > 1 and scaling is None:
        raise UserError(
            "--ranks gives several sizes; say with --scaling strong or weak what stays the same, or give one"
        )
    if scaling is not None and not n_ranks:
        raise UserError("--scaling is of a sweep; give its sizes with --ranks, 1,2,4")
    return n_ranks


def parse_numbers(option: str, text: str, least: int) -> tuple[int, ...]:
    """Return the numbers of an option, ``1,2,4``.

    Raises:
        UserError: they are not different whole numbers of at least ``least``.
    """
    return _numbers(option, text, text.split(","), least, "1,2,4")


def parse_array(text: str) -> Array:
    """Return the seeds of ``1,2,3``, ``1-20`` or ``1-20%4``, of which 4 may run at a time.

    Raises:
        UserError: they are not different whole numbers, or the limit is none.
    """
    seeds, percent, limit = text.partition("%")
    parts: list[str] = []
    for part in seeds.split(","):
        span = re.fullmatch("([0-9]{1,9})-([0-9]{1,9})", part)
        if span and 0 <= int(span[2]) - int(span[1]) < 100_000:
            parts += map(str, range(int(span[1]), int(span[2]) + 1))
        else:
            parts.append(part)
    numbers = _numbers("--array-of-seeds", text, parts, 0, "1,2,4 or 1-20%4")
    if percent and not re.fullmatch("[1-9][0-9]{0,8}", limit):
        raise UserError(f"--array-of-seeds is {text!r}, but after % comes how many run at a time; 1-20%4")
    return Array(numbers, int(limit) if percent else None)


def _numbers(option: str, text: str, parts: list[str], least: int, example: str) -> tuple[int, ...]:
    numbers = [int(part) for part in parts if re.fullmatch("[0-9]{1,9}", part)]
    if not numbers or len(numbers) < len(parts) or min(numbers) < least or len({*numbers}) < len(numbers):
        raise UserError(
            f"{option} is {text!r}, but must be different whole numbers from {least} on; for example "
            f"{example}"
        )
    return tuple(numbers)


def _check_name(name: str | None) -> None:
    if name is not None and (
        not name.strip(". ") or "/" in name or not name.isprintable() or len(name) > 100
    ):
        raise UserError(
            f"--name is {name[:60]!r}, which is not usable as a folder name; give 1 to 100 characters, no '/'"
        )


def _check_word(option: str, value: str | None, advice: str) -> None:
    try:
        if value is not None:
            check_word(value)
    except ValueError as problem:
        raise UserError(f"{option} is {value!r}, but {problem}; {advice}") from None


def _same_option(line: str, other: str) -> bool:
    return re.split("[= ]", line)[0] == re.split("[= ]", other)[0]
