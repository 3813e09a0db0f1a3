"""``metrics.jsonl``: one line an epoch, each epoch once, numbers that are not finite as null."""

from __future__ import annotations

import contextlib
import json
import math
import os
from pathlib import Path
from typing import Any

from .atomic_io import write_whole


class Metrics:
    """The metrics file of a run directory; used on rank 0 alone."""

    def __init__(self, run: Path):
        self._path = run / "metrics.jsonl"
        self._waiting: list[str] = []  # lines that a full disk has not taken yet

    def rewind(self, last: dict | None) -> None:
        """Let the file end with this line, each earlier epoch's once before it: what a resumed run has behind it."""
        lines = {}
        for text in (
            self._path.read_text(encoding="utf-8").splitlines() if last and self._path.exists() else []
        ):
            try:
                line = json.loads(text)
            except ValueError:  # torn by the crash that this run resumes from
                continue
            if line["epoch"] < last["epoch"]:
                lines[line["epoch"]] = text + "\n"
        write_whole(self._path, "".join(lines.values()) + (_text(last) if last else ""))

    def add(self, line: dict) -> None:
        """Append one epoch's line, synced: no checkpoint is ahead of it. Where the disk is full, with the next one."""
        self._waiting.append(_text(line))
        self.write()

    def write(self) -> int:
        """Append the lines that wait; return how many still do, because the disk does not take them."""
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
