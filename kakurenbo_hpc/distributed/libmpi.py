"""MPI libraries loaded in this process; two of them crash it."""

from __future__ import annotations

import re
from pathlib import Path

# Open MPI, MPICH, Intel; Cray's name the compiler as well. Not their Fortran halves.
_NAME = re.compile(r"libmpi(ch|_(cray|gnu|intel|amd|aocc|nvidia)\w*)?\.so[.\d]*")


def loaded_mpi() -> list[Path]:
    """Return the MPI libraries in this process's memory, by their real paths."""
    lines = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    paths = {Path(words[5]) for words in lines if len(words) == 6}
    return sorted({path.resolve() for path in paths if _NAME.fullmatch(path.name)})
