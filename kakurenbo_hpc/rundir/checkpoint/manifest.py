"""Checkpoint manifest: format, checksums, validation.

``manifest.json`` holds the facts of the run, the checksum of every other file of the checkpoint, and its own
checksum. It is the last file to be written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import RunDirectoryError
from ..atomic_io import write_whole
from .shards import checksum

FORMAT = 3  # format 1 had no checksum of the manifest, format 2 another number of home blocks


def validate_checkpoint(checkpoint: Path) -> str | None:
    """Check every file of a checkpoint against the manifest.

    Returns:
        Which file is missing or damaged; None if the checkpoint is valid.

    Raises:
        RunDirectoryError: the checkpoint has another format than this version's, or a file cannot be read,
            which may be temporary.
    """
    name = "manifest.json"
    try:
        facts = load_facts(checkpoint)
        if facts.get("checksum") != _checksum(facts) and (facts["format"] != 1 or "checksum" in facts):
            return f"{name} is damaged"
        if facts["format"] != FORMAT:
            raise RunDirectoryError(
                f"{checkpoint}: of format {facts['format']}, but this version reads format {FORMAT}; "
                "use the version that wrote it"
            )
        for name, expected in facts["files"].items():
            if checksum(checkpoint / name) != expected:
                return f"{name} is damaged"
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return f"{name} is missing"
    except OSError as problem:
        raise RunDirectoryError(
            f"{checkpoint / name}: cannot be read ({problem.strerror}); try again when it can"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{name} is damaged"
    return None


def write_manifest(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Write the facts, the format and a checksum of both."""
    facts = {"format": FORMAT, **facts}
    write_whole(checkpoint / "manifest.json", json.dumps({**facts, "checksum": _checksum(facts)}, indent=1))


def load_facts(checkpoint: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint."""
    return json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))


def _checksum(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the facts as JSON, without the key ``checksum``."""
    return hashlib.sha256(
        json.dumps({name: fact for name, fact in facts.items() if name != "checksum"}).encode()
    ).hexdigest()
