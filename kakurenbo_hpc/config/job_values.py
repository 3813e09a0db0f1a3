"""Plain values of a job file, merged over those of the job that it is based on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import JobError, shown
from .package_files import find_job
from .yaml import read_yaml

_MOST_BASES = 5


def read_values(path: str | Path, n_above: int = 0) -> dict:
    """Read a job file, and the job that its key ``base`` names, over which it is laid.

    Args:
        path: of the job file.
        n_above: jobs that are based on it.

    Raises:
        JobError: a file is missing or no mapping, or bases have no end.
    """
    values = read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise JobError(f"{path}: base is {shown(base)}, but must be the name or the path of a job")
    if n_above == _MOST_BASES:
        raise JobError(f"{path}: is the base of {n_above} jobs, one upon the other; use at most that many")
    beside = Path(path).parent / base
    return changed(read_values(beside if beside.is_file() else find_job(base), n_above + 1), values)


def changed(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict:
    """Return a job's values with changes laid over them: key by key in each section.

    A data section with a name, and a selection with a method, replace the whole section: the keys of
    another data set or method would not fit.
    """
    result = {
        name: dict(section) if isinstance(section, dict) else section for name, section in values.items()
    }
    for name, over in changes.items():
        section = result.get(name)
        if isinstance(section, dict) and isinstance(over, dict) and _TAGS.get(name) not in over:
            result[name] = section | over
        else:
            result[name] = dict(over) if isinstance(over, dict) else over
    return result


_TAGS = {"data": "name", "selection": "method"}
