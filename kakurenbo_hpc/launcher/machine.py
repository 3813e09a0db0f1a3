"""The facts of a machine, as ``launch/machines/*.yaml`` states them: what changes with the machine, never with the job."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator

from ..errors import JobError, nearest
from ..job import Count, Options, checked, read_yaml
from ..places import launch_dir


def _settable(environment: dict[str, str]) -> dict[str, str]:
    for name, value in environment.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is no name of a variable; use letters, digits and '_'")
        if "\0" in value:
            raise ValueError(f"the value of {name} holds a null character; no environment can")
    return environment


class Machine(Options):
    """How ranks start here. ranks_per_node: the most that a node takes, None for no limit. environment: set for the ranks."""

    name: str
    starter: Literal["mpirun"]
    ranks_per_node: Count | None = None
    environment: Annotated[dict[str, str], AfterValidator(_settable)] = {}


def read_machine(name_or_path: str) -> Machine:
    """Read a machine file as it is named, or one that comes with the package: ``local``.

    Raises JobError, one line, if there is neither (naming the nearest), or for the first thing in it that is wrong.
    """
    path = _find(name_or_path)
    return checked(Machine, read_yaml(path), str(path))


def _find(name_or_path: str) -> Path:
    shipped = {path.stem: path for path in (launch_dir() / "machines").glob("*.yaml")}
    # os.path: a name too long for the file system is no file; Path.is_file would raise.
    if os.path.isfile(name_or_path):
        return Path(name_or_path)
    if name_or_path in shipped:
        return shipped[name_or_path]
    known = nearest(Path(name_or_path).stem, shipped)
    raise JobError(f"{name_or_path}: no such machine file, and no machine of that name comes with the package; {known}")
