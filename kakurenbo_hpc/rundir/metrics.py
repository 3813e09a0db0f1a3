"""Metrics file ``metrics.jsonl``: one line per epoch, non-finite numbers as null."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from .atomic_io import write_whole


class Metrics:
    """The metrics file of a run directory; on rank 0 only."""

    def __init__(self, run: Path) -> None:
        self._path = run / "metrics.jsonl"
        self._waiting: list[str] = []  # lines that a full disk has not taken yet

    def rewind(self, last: dict | None) -> None:
        """Truncate the file to the last line of a resumed run, with each earlier epoch once before it."""
        lines: dict[int, str] = {}
        for text in (
            self._path.read_text(encoding="utf-8").splitlines() if last and self._path.exists() else []
        ):
            try:
                line = json.loads(text)
            except ValueError:  # torn by the crash that this run resumes from
                continue
            if last and line["epoch"] < last["epoch"]:
                lines[line["epoch"]] = text + "\n"
        write_whole(self._path, "".join(lines.values()) + (_text(last) if last else ""))

    def add(self, line: dict) -> None:
        """Append and sync one epoch's line; on a full disk, it is kept for the next call."""
        self._waiting.append(_text(line))
        self.write()

    def write(self) -> int:
        """Append the kept lines; return how many the disk still does not take."""
        if not self._waiting:
            return 0
        data = "".join(self._waiting).encode()
        with contextlib.suppress(OSError), open(self._path, "ab", buffering=0) as file:
            before = file.tell()
            try:
                whole = file.write(data) == len(data)
                os.fsync(file.fileno())
            except OSError:
                whole = False
            if whole:
                self._waiting = []
            else:
                file.truncate(before)
        return len(self._waiting)


def _text(line: dict) -> str:
    return json.dumps(finite(line), allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Return the value with every number that is not finite replaced by None."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
