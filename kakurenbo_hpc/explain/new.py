"""``kakurenbo new``: a copy of a job or machine file that comes with the package."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..cluster.machine import find_machine
from ..config.package_files import find_job, jobs_dir
from ..errors import UserError
from ..rundir.path_checks import check_file

SCHEMA_LINE = "# yaml-language-server: $schema="


def copy_file(kind: str, name: str, out: Path) -> None:
    """Copy a job or machine file, with the line that tells editors where its schema is.

    Args:
        kind: "job" or "machine".
        name: of a file that comes with the package, or a path.
        out: where the copy goes; its folder must be there.

    Raises:
        UserError: there is no such file, or one is at ``out`` already.
    """
    source = find_job(name) if kind == "job" else find_machine(name)
    check_file(out, "--out")
    if out.exists():
        raise UserError(f"{out}: is there already; remove it, or give another --out")
    text = source.read_text(encoding="utf-8")
    try:
        out.write_text(with_schema(text, kind, out.absolute().parent), encoding="utf-8")
    except OSError as problem:
        raise UserError(f"{out}: cannot be written ({problem.strerror}); give another --out") from None


def with_schema(text: str, kind: str, folder: Path) -> str:
    """Return the text of a YAML file with the line for editors, its path as seen from the file's folder."""
    schema = os.path.relpath(jobs_dir() / "schema" / f"{kind}.json", folder)
    line = f"{SCHEMA_LINE}{schema.replace(os.sep, '/')}\n"
    rest = re.sub(rf"^{re.escape(SCHEMA_LINE)}.*\n", "", text, count=1, flags=re.MULTILINE)
    return line + rest
